"""`python -m train DATA --out DIR`: make the default model from a folder of labelled photos."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from train import backbone, card, data, recipe

ABOUT = Path(__file__).with_name("isic.json")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser("python -m train", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with labels.csv: label, split, and a path")
    parser.add_argument("--out", type=Path, required=True, help="model.tflite and its card go here")
    parser.add_argument("--column", help="column of the paths (default: squashed, else image)")
    parser.add_argument("--weights", choices=("imagenet", "random"), default="imagenet")
    parser.add_argument("--side", type=int, default=224, help="input side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--about", type=Path, default=ABOUT, help="JSON: name, source, licences")
    return parser.parse_args(arguments)


def train(options: argparse.Namespace, body: Any, say: recipe.Say) -> dict[str, Any]:
    """Run the recipe on *body* as the options say, and write its files.

    Returns: the card.
    """
    photos, column = data.read(options.data, options.column)
    labels = data.labels(photos)
    say(f"decoding {len(photos)} photos of {len(labels)} labels, column {column}")
    training, validation = (
        data.decode([p for p in photos if (p.split == "val") is wanted], labels, options.side)
        for wanted in (False, True)
    )
    made = recipe.make(body, training, validation, labels, options.seed, say)
    about = json.loads(options.about.read_text(encoding="utf-8"))
    history = card.describe(photos, column, options.weights, made, options.seed)
    document = card.compose(made, about, labels, options.side, history)
    card.write(options.out, made, document)
    return document


def main(arguments: list[str]) -> int:
    """Train, and print where the files went and the figures that matter."""
    # TensorFlow greets at length before it says anything that matters
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options = parse(arguments)
    network = backbone.imagenet if options.weights == "imagenet" else backbone.build
    document = train(options, network(options.side), lambda line: print(line, flush=True))
    figures = document["metrics"]
    print(f"{options.out / 'model.tflite'}: {document['bytes']} bytes, {document['sha256']}")
    print(
        f"val, n={figures['n']}: balanced accuracy {figures['balanced_accuracy']:.3f},"
        f" mean AUC {figures['mean_auc']:.3f},"
        f" top-1 agreement with fp32 {figures['against_fp32']['top1_agreement']:.3f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

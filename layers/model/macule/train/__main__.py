"""`python -m macule.train DATA --out DIR`: train the default model on labelled photos."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from macule.train import card_page, inputs, plan, processes, publishing, recipe
from macule.train.network import backbone

ABOUT = Path(__file__).with_name("isic.json")
OOD_LAYER = "blocks_10_project_conv"
TRAINED_FROM = "blocks_11_expand_conv"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m macule.train", description=__doc__)
    add = parser.add_argument
    add("data", type=Path, help="folder with labels.csv: label and an image column")
    add("--clinical", type=Path, help="folder of photos of skin without a dermatoscope")
    add("--out", type=Path, required=True, help="folder for model.tflite and its card")
    add("--work", type=Path, help="folder for checkpoints and curves; default: OUT/work")
    add("--jobs", type=int, default=os.cpu_count(), help="processes; default: one a processor")
    add("--column", help="column of the image paths; default: detected")
    add("--weights", choices=("imagenet", "random"), default="imagenet")
    add("--side", type=int, default=256, help="input size of the model in pixels")
    add("--about", type=Path, default=ABOUT, help="JSON file with name, source and licences")
    add("--page", type=Path, help="Markdown file for the model card")
    for name, default in plan.TrainingPlan()._asdict().items():
        option = f"--{name.replace('_', '-')}"
        add(option, type=type(default), default=default, help=f"default: {default}")
    return parser.parse_args(arguments)


def train(options: argparse.Namespace, network: recipe.Network, log: plan.Log) -> dict[str, Any]:
    """Run the recipe on *network* and write its files.

    Returns: the card.
    """
    fields = plan.TrainingPlan._fields
    chosen = plan.TrainingPlan(**{name: getattr(options, name) for name in fields})
    work = options.work or options.out / "work"
    plan.keep(chosen, work)
    photos = inputs.list_photos(options.data, options.column, options.clinical)
    if not (work / inputs.FILE).exists():
        inputs.prepare(photos, options.side, work, log)
    for stage in recipe.steps(network, chosen, work):
        processes.run_all(stage, options.jobs, log)
    about = json.loads(options.about.read_text(encoding="utf-8"))
    done = publishing.Recipe(network, chosen, photos, about, options.weights, work)
    document, predictions = publishing.publish(done, options.out, log)
    if options.page:
        card_page.write(options.page, options.out, predictions)
    return document


def main(arguments: list[str]) -> int:
    """Train the model, and print the file and its main metrics."""
    # suppress the start-up messages of TensorFlow
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options = parse(arguments)
    build = backbone.imagenet if options.weights == "imagenet" else backbone.build
    network = recipe.Network(build, OOD_LAYER, TRAINED_FROM)
    document = train(options, network, processes.print_line)
    figures = document["metrics"]
    print(f"{options.out / 'model.tflite'}: {document['bytes']} bytes, {document['sha256']}")
    print(
        f"out of fold, n={figures['n']}: balanced accuracy {figures['balanced_accuracy']:.3f},"
        f" mean AUC {figures['mean_auc']:.3f},"
        f" top-1 agreement with fp32 {figures['against_fp32']['top1_agreement']:.3f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m macule.train DATA --out DIR`: make the default model from labelled photos."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from macule.convert import evaluate
from macule.convert.evaluation import dataset
from macule.convert.progress import Progress
from macule.train import backbone, card, card_page, data, fine_tuning, recipe

ABOUT = Path(__file__).with_name("isic.json")
MIDWAY = "blocks_10_project_conv"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser("python -m macule.train", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with labels.csv: label, split, and a path")
    parser.add_argument("--out", type=Path, required=True, help="model.tflite and its card go here")
    parser.add_argument("--work", type=Path, help="states and curves (default: OUT/work)")
    parser.add_argument("--column", help="column of the paths (default: squashed, else image)")
    parser.add_argument("--weights", choices=("imagenet", "random"), default="imagenet")
    parser.add_argument("--side", type=int, default=256, help="of the images served, in pixels")
    parser.add_argument("--seeds", type=int, default=3, help="runs to average")
    parser.add_argument("--about", type=Path, default=ABOUT, help="JSON: name, source, licences")
    parser.add_argument("--page", type=Path, help="where to write the model card as a page")
    for name, default in fine_tuning.TrainingPlan()._asdict().items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help=f"default: {default}")
    return parser.parse_args(arguments)


def train(options: argparse.Namespace, network: recipe.Network, log: recipe.Log) -> dict[str, Any]:
    """Run the recipe on *network* as the options log, and write its files.

    Returns: the card.
    """
    photos = dataset.list_photos(options.data, options.column)
    centred = data.cropped_photos(options.data, photos)
    labels = data.label_order(photos)
    log(f"decoding {len(photos) + len(centred)} photos of {len(labels)} labels")
    inside = frozenset(photo.path for photo in centred)
    training, validation = (
        data.decode_photos(
            [p for p in [*photos, *centred] if (p.split == "val") is held],
            labels,
            options.side,
            inside,
        )
        for held in (False, True)
    )
    plan = fine_tuning.TrainingPlan(
        **{name: getattr(options, name) for name in fine_tuning.TrainingPlan._fields}
    )
    work = options.work or options.out / "work"
    made = recipe.run_recipe(
        network, training, validation, labels, plan, range(options.seeds), work, log
    )
    about = json.loads(options.about.read_text(encoding="utf-8"))
    history = card.training_history([*photos, *centred], options.weights, plan, made)
    document = card.build_card(made, about, labels, options.side, history)
    card.write_model(options.out, made, document)
    log("measuring it as it serves")
    held = [photo for photo in photos if photo.split == "val"]
    answers = evaluate.predict_photos(str(options.out), held, Progress(1))
    card.write_json(
        options.out / "evaluation.json", card_page.compute_metrics(options.out, answers)
    )
    fine_tuning.collect_curves(work, options.out / "curves.csv")
    if options.page:
        card_page.write(options.page, options.out, answers)
    return document


def main(arguments: list[str]) -> int:
    """Train, and print where the files went and the figures that matter."""
    # TensorFlow greets at length before it says anything that matters
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options = parse(arguments)
    build = backbone.imagenet if options.weights == "imagenet" else backbone.build
    network = recipe.Network(build, MIDWAY)
    document = train(options, network, lambda line: print(line, flush=True))
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

"""`python -m macule.train DATA --out DIR`: train the default model on labelled photos."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from macule.convert import evaluate
from macule.convert.card_builder import write_json
from macule.convert.evaluation import dataset
from macule.convert.progress import Progress
from macule.train import backbone, card, card_page, data, fine_tuning, recipe

ABOUT = Path(__file__).with_name("isic.json")
OOD_LAYER = "blocks_10_project_conv"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m macule.train", description=__doc__)
    add = parser.add_argument
    add("data", type=Path, help="folder with labels.csv: label, split and an image column")
    add("--out", type=Path, required=True, help="folder for model.tflite and its card")
    add("--work", type=Path, help="folder for checkpoints and curves; default: OUT/work")
    add("--column", help="column of the image paths; default: detected")
    add("--weights", choices=("imagenet", "random"), default="imagenet")
    add("--side", type=int, default=256, help="input size of the model in pixels")
    add("--seeds", type=int, default=3, help="runs to average")
    add("--about", type=Path, default=ABOUT, help="JSON file with name, source and licences")
    add("--page", type=Path, help="Markdown file for the model card")
    for name, default in fine_tuning.TrainingPlan()._asdict().items():
        option = f"--{name.replace('_', '-')}"
        add(option, type=type(default), default=default, help=f"default: {default}")
    return parser.parse_args(arguments)


def train(options: argparse.Namespace, network: recipe.Network, log: recipe.Log) -> dict[str, Any]:
    """Run the recipe on *network* and write its files.

    Returns: the card.
    """
    photos = dataset.list_photos(options.data, options.column)
    cropped = data.cropped_photos(options.data, photos)
    labels = data.label_order(photos)
    log(f"decoding {len(photos) + len(cropped)} photos of {len(labels)} labels")
    cropped_paths = frozenset(photo.path for photo in cropped)
    whole_and_cropped = [*photos, *cropped]
    training, validation = (
        data.decode_photos(chosen, labels, options.side, cropped_paths)
        for chosen in (
            [photo for photo in whole_and_cropped if photo.split != "val"],
            [photo for photo in whole_and_cropped if photo.split == "val"],
        )
    )
    fields = fine_tuning.TrainingPlan._fields
    plan = fine_tuning.TrainingPlan(**{name: getattr(options, name) for name in fields})
    work = options.work or options.out / "work"
    trained = recipe.run_recipe(
        network, training, validation, labels, plan, range(options.seeds), work, log
    )
    about = json.loads(options.about.read_text(encoding="utf-8"))
    history = card.training_history(whole_and_cropped, options.weights, plan, trained)
    document = card.build_card(trained, about, labels, options.side, history)
    card.write_model(options.out, trained, document)
    log("evaluating the model as in production")
    validation_photos = [photo for photo in photos if photo.split == "val"]
    predictions = evaluate.predict_photos(str(options.out), validation_photos, Progress(1))
    measured = card_page.compute_metrics(options.out, predictions)
    write_json(options.out / "evaluation.json", measured)
    fine_tuning.collect_curves(work, options.out / "curves.csv")
    if options.page:
        card_page.write(options.page, options.out, predictions)
    return document


def main(arguments: list[str]) -> int:
    """Train the model, and print the file and its main metrics."""
    # suppress the start-up messages of TensorFlow
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options = parse(arguments)
    build = backbone.imagenet if options.weights == "imagenet" else backbone.build
    network = recipe.Network(build, OOD_LAYER)
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

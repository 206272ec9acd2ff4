"""The published files: the model of all images, its card, and the figures of cross-validation."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.Image import fromarray

from macule.convert import evaluate
from macule.convert.card_builder import write_json
from macule.convert.evaluation import dataset, fitted, metrics, predictions
from macule.convert.evaluation.pixels import skin_tone
from macule.convert.evaluation.predictions import DECISIONS, Predictions
from macule.convert.progress import Progress
from macule.inference import classification, decoding
from macule.inference.runtime import loading
from macule.inference.runtime.loading import LoadedModel
from macule.registry import model_card
from macule.registry.model_card import Card
from macule.train import card, cross_validation, fine_tuning, inputs, recipe
from macule.train.cross_validation import Fitted, Judged
from macule.train.images import synthetic_ood
from macule.train.inputs import Photos
from macule.train.plan import Log, TrainingPlan
from macule.train.recipe import HeldOut, Network

SYNTHETIC_IMAGES = 210
ROBUSTNESS_IMAGES = 100


class Recipe(NamedTuple):
    """What a finished recipe needs to publish its files; `about`: name, source and licences."""

    network: Network
    plan: TrainingPlan
    photos: Photos
    about: dict[str, Any]
    weights: str
    work: Path


def publish(done: Recipe, out: Path, log: Log) -> tuple[dict[str, Any], Predictions]:
    """Write the files of the model of all images into *out*.

    Returns: the card, and the predictions of cross-validation.
    """
    given, answers = inputs.load(done.work), recipe.load_held_out(done.work)
    log("making the published file")
    fit = cross_validation.fit(answers, given.truth)
    document = make_model(done, recipe.ALL, fit, out, log)
    template = model_card.check(document)
    judged = cross_validation.judge(template, answers, given.truth, given.fold_of)
    selective = cross_validation.figures(judged, given.truth)
    figures = card_figures(answers, judged, given.truth, done.photos.labels)
    document["metrics"] = figures | selective
    write_json(out / "model.json", document)
    found = as_predictions(model_card.read(str(out)), done.photos, judged, given)
    log("measuring the figures")
    measured = {
        **predictions.compute_metrics(found),
        **selective,
        "calibration_bins": equal_size_bins(found.probabilities, found.truth),
        **count_decisions(out, done.photos, found.card),
        "robustness": measure_robustness(done, answers, log),
        "precisions": compare_precisions(answers, given.truth, done.photos.labels),
    }
    write_json(out / "evaluation.json", measured)
    fitted.write(out, (photo.path for photo in done.photos.fitted))
    fine_tuning.collect_curves(done.work, out / "curves.csv")
    return document, found


def make_model(done: Recipe, run: str, fit: Fitted, folder: Path, log: Log) -> dict[str, Any]:
    """Write the model of a run with fitted values as a model folder; returns its card."""
    weights = recipe.train(done.network, done.plan, done.work, run, log)
    content = recipe.assemble(done.network, done.work, run, weights, fit.calibration.shift).int8
    history = card.training_history(done.photos, done.weights, done.plan)
    side_px = inputs.load(done.work).whole.shape[1]
    document = card.build(content, fit, done.about, done.photos.labels, side_px, history)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(content)
    write_json(folder / "model.json", document)
    rounded: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return rounded


def card_figures(
    answers: HeldOut, judged: Judged, truth: NDArray[np.int64], labels: list[str]
) -> dict[str, Any]:
    """Return the figures of the card, all of them out of fold."""
    shares = judged.probabilities
    reference = metrics.softmax(answers.logits_fp32), metrics.softmax(answers.logits)
    return {
        "split": "cross-validation",
        "folds": len(recipe.RUNS) - 1,
        "grouped_by": "look-alike photos",
        "precision": "int8",
        **metrics.summarise(answers.logits, truth, labels, shares),
        "against_fp32": metrics.compare_probabilities(*reversed(reference)),
    }


def as_predictions(
    template: Card, photos: Photos, judged: Judged, given: inputs.Inputs
) -> Predictions:
    tones = np.array([skin_tone.estimate(pixels) for pixels in given.whole])
    return Predictions(
        template, photos.lesions, judged.probabilities, judged.decisions, given.truth, 0, tones
    )


def count_decisions(folder: Path, photos: Photos, template: Card) -> dict[str, Any]:
    """Count the decisions of the model in *folder* for images that no fit has seen.

    Returns: `drawn`, of generated images; `clinical`, of photos of other patients, None if there
      are none.
    """
    warm = loading.load(str(folder), on_trial=False)  # not the one model that serves a process
    frame = decoding.sides(template.side_px)
    decoded = (dataset.decode_photo(photo, frame, "squash") for photo in photos.clinical_held)
    return {
        "drawn": count(warm, synthetic_ood.draw(SYNTHETIC_IMAGES)),
        "clinical": count(warm, (pixels for pixels in decoded if pixels is not None)),
    }


def count(warm: LoadedModel, images: Iterable[NDArray[np.uint8]]) -> dict[str, int] | None:
    """Count the decisions for images (h, w, 3), as in production; None without images."""
    height, width = decoding.sides(warm.card.side_px)
    found = [
        classification.classify(warm, fromarray(image).resize((width, height))).verdict.decision
        for image in images
    ]
    decisions = Counter(found)
    return {"n": len(found)} | {name: decisions[name] for name in DECISIONS} if found else None


def measure_robustness(done: Recipe, answers: HeldOut, log: Log) -> dict[str, Any] | None:
    """Compare the answers of the first fold's model to images that it has not seen."""
    given = inputs.load(done.work)
    others = given.fold_of != 0
    log("robustness: making the model of the first fold")
    fit = cross_validation.fit(answers.select(others), given.truth[others])
    folder = done.work / recipe.RUNS[0] / "model"
    make_model(done, recipe.RUNS[0], fit, folder, log)
    cropped = {photo.path for photo in done.photos.cropped}
    held = [done.photos.lesions[place] for place in np.flatnonzero(~others)]
    whole = [photo for photo in held if photo.path not in cropped]
    sample = dataset.sample_photos(whole, (), ROBUSTNESS_IMAGES)
    return evaluate.measure_robustness(
        loading.load(str(folder), on_trial=False), sample, Progress(1)
    )


def compare_precisions(
    answers: HeldOut, truth: NDArray[np.int64], labels: list[str]
) -> dict[str, Any]:
    """Return the figures of the int8 and the fp32 files before calibration."""
    return {
        name: metrics.summarise(logits, truth, labels, metrics.softmax(logits))
        for name, logits in (("int8", answers.logits), ("fp32", answers.logits_fp32))
    }


def equal_size_bins(
    probabilities: metrics.Floats, truth: metrics.Ints, count: int = 5
) -> list[list[float]]:
    """Group top answers by confidence into groups of equal size.

    Returns: number of images, mean confidence and accuracy of each group.
    """
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    groups = np.array_split(np.argsort(top, kind="stable"), count)
    return [[len(g), float(top[g].mean()), float(right[g].mean())] for g in groups if len(g)]

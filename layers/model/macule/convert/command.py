"""`macule convert`: convert a model into a small one, with its card and report."""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macule.convert import card_builder, export, out_of_fold, scaling, selection
from macule.convert.conversion import ComparisonImages, Conversion, Inputs
from macule.convert.errors import BadInput
from macule.convert.evaluation import batch_inference, dataset, fitted
from macule.convert.evaluation.batch_inference import arrange
from macule.convert.evaluation.dataset import Images
from macule.convert.graph import out_of_distribution
from macule.convert.progress import Progress
from macule.convert.report import evidence, pages
from macule.convert.source import labelling, load
from macule.convert.source.load import Source
from macule.registry.model_card import FILE

STEPS = 7
MIN_SIDE_PX, MAX_SIDE_PX = 8, 640
DEFAULT_SIDE_PX = 224  # for models that accept any size, without --side
CALIBRATION_IMAGES = 128
EVALUATION_IMAGES = 1000
SCALING_IMAGES = 200
BATCH_SIZE = 16
# Suppress the start-up messages. Without oneDNN, the results are the same on every CPU.
TENSORFLOW_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "CUDA_VISIBLE_DEVICES": "-1",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    folder: dict[str, Any] = {"type": Path, "metavar": "DIR"}
    constant: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    texts = "FILE|a,b,c"
    precisions = ("auto", "int8", "fp16", "dynamic", "fp32")
    add("model", type=Path, help=".keras, .h5, SavedModel folder or .tflite")
    add("--out", **folder, help="folder to write; default: the name of the model file")
    add("--labels", metavar=texts, help="the labels, in the order of the outputs")
    add("--names", metavar=texts, help="the names that users see; JSON for several languages")
    add("--descriptions", metavar="FILE", help="one sentence per label; JSON by language")
    add("--urgent", metavar="a,b", help="labels for which users should see a doctor soon")
    add("--scaling", choices=["auto", *scaling.SCALINGS], default="auto")
    add("--channels", choices=["rgb", "bgr"], help="default: detected, or rgb")
    add("--resize", choices=["squash", "crop", "pad"], default="squash")
    add("--side", type=_parse_side, metavar="PX", help="input side, or HEIGHTxWIDTH")
    like_production = "images that set the int8 ranges, about 100 like those in production"
    add("--calibration", **folder, help=like_production)
    add("--eval", **folder, help="labelled images: one folder per class, or labels.csv")
    add("--precision", choices=precisions, default="auto")
    add("--limit-mb", type=float, metavar="MB", help="memory limit of the whole service")
    add("--constant", **constant, help="a constant for another input")
    add("--name", help="name of the model; default: the name of the file")
    add("--force", action="store_true", help="keep --scaling even if another scaling scores better")
    for name, default in selection.Gate()._asdict().items():
        if default is not None:
            flag, text = f"--gate-{name.replace('_', '-')}", f"default: {default}"
            add(flag, type=float, default=default, metavar="SHARE", help=text)


def convert(options: argparse.Namespace, command_line: str) -> tuple[Path, dict[str, Any]]:
    """Convert a model; *command_line* is shown in the report.

    Returns: the folder written, and the evidence that its report shows.
    Raises: BadInput. The folder is written completely or not at all.
    """
    os.environ.update(TENSORFLOW_ENVIRONMENT)
    progress = Progress(STEPS)
    out = _check_out(options.out or Path(options.model.name.split(".")[0] or "model"))
    inputs = _read_inputs(options, progress)

    progress.step("converting to LiteRT, fp32")
    exported = export.export(inputs.source, *inputs.side_px)

    progress.step("selecting the scaling")
    choice = _select_scaling(inputs, exported, options, progress)

    exported = _add_ood_score(inputs, exported, choice, progress)

    progress.step("running the original model")
    synthetic = Images(dataset.synthetic_images(inputs.side_px), None, 0)
    compared = inputs.comparison_images or synthetic
    images = ComparisonImages(
        compared.pixels,
        arrange(compared.pixels, choice.channels),
        compared.truth,
        scaling.mean_and_std(choice.name, choice.channels),
        synthetic=inputs.comparison_images is None,
    )
    reference = _run_original(inputs.source, images, progress)

    progress.step("selecting a precision")
    calibration = arrange((inputs.calibration or synthetic).pixels, choice.channels)
    results = selection.select(
        options, exported, calibration, images, reference, inputs.labels, progress
    )

    progress.step(f"writing {out}")
    content = next(result.candidate.content for result in results if result.chosen)
    logits, scores = batch_inference.logits_and_ood_scores(
        content, images.pixels, images.scaling, exported.output
    )
    distances = None if scores is None else scores[:, 0]
    calibrated = None
    if images.truth is not None:
        calibrated = out_of_fold.calibrate(logits, images.truth, distances, compared.photos)
    conversion = Conversion(
        inputs, exported, choice, images, reference, results, logits, distances, calibrated
    )
    card = card_builder.build_card(options, conversion)
    collected = evidence.collect(options, command_line, conversion, card)
    with _atomic_folder(out) as folder:
        (folder / card["file"]).write_bytes(content)
        card_builder.write_json(folder / FILE, card)
        fitted.write(folder, inputs.image_files)
        pages.write(folder, collected)
    return out, collected


def _read_inputs(options: argparse.Namespace, progress: Progress) -> Inputs:
    """Load the model, read its labels, and decode the images."""
    progress.step(f"reading {options.model}")
    source = load.load(options.model, _parse_constants(options.constant))
    side_px = _input_size(source, options.side)
    labelled = dataset.list_photos(options.eval) if options.eval else []
    calibration = dataset.list_photos(options.calibration) if options.calibration else labelled
    folders = sorted({photo.label for photo in labelled if photo.label})
    labels = labelling.read_labels(options.labels, options.model, folders, source.classes)
    texts = {
        "names": labelling.read_names(options.names, labels),
        "descriptions": labelling.read_descriptions(options.descriptions, labels),
        "urgent": labelling.read_urgent(options.urgent, labels),
    }
    if options.eval and not folders:
        raise BadInput(f"{options.eval} has no labels: use one folder per class, or a labels.csv.")

    progress.step(f"decoding images to {side_px[0]} x {side_px[1]} px")

    def decode(
        photos: list[dataset.Photo], splits: list[str], limit: int, what: str
    ) -> Images | None:
        chosen = dataset.sample_photos(photos, splits, limit)
        if not chosen:
            return None
        return dataset.decode_photos(chosen, labels, side_px, options.resize, progress, what)

    # If the folder has splits, calibrate on the training images and evaluate on the others.
    unlabelled = [photo._replace(label="") for photo in calibration]
    return Inputs(
        source, side_px, labels, texts,
        decode(unlabelled, ["train"], CALIBRATION_IMAGES, "for calibration"),
        decode(labelled, ["val", "test"], EVALUATION_IMAGES, "for evaluation"),
    )  # fmt: skip


def _select_scaling(
    inputs: Inputs, exported: export.Exported, options: argparse.Namespace, progress: Progress
) -> scaling.ScalingChoice:
    """Try all scalings if there are labelled images, and choose one."""
    trials = []
    if inputs.evaluation and inputs.evaluation.truth is not None:
        order = np.random.default_rng(0).permutation(len(inputs.evaluation.pixels))[:SCALING_IMAGES]
        pixels, truth = inputs.evaluation.pixels[order], inputs.evaluation.truth[order]
        trials = scaling.try_all(exported, pixels, truth, inputs.source, progress)
    return scaling.choose(inputs.source, trials, options.scaling, options.channels, options.force)


def _add_ood_score(
    inputs: Inputs, exported: export.Exported, choice: scaling.ScalingChoice, progress: Progress
) -> export.Exported:
    """Export the model again with an OOD score, if there are enough calibration images.

    Without evaluation images, every other calibration image is kept for the thresholds.
    """
    images = inputs.calibration
    if images is None or exported.precision != "fp32" or inputs.source.kind == "tflite":
        return exported
    pixels = images.pixels if inputs.evaluation else images.pixels[::2]
    if len(pixels) < out_of_distribution.MIN_IMAGES:
        return exported
    progress.log(f"fitting the OOD score on {len(pixels)} images")
    numbers = scaling.mean_and_std(choice.name, choice.channels)
    scaled = batch_inference.scale(arrange(pixels, choice.channels), numbers)
    return export.export(inputs.source, *inputs.side_px, scaled)


def _run_original(
    source: Source, images: ComparisonImages, progress: Progress
) -> NDArray[np.float32]:
    """Return the probabilities (n, classes) of the original, computed by its own framework."""
    starts = range(0, len(images.pixels), BATCH_SIZE)
    parts = [
        load.predict(
            source, batch_inference.scale(images.pixels[start : start + BATCH_SIZE], images.scaling)
        )
        for start in progress.track(starts, len(starts), f"batches of {BATCH_SIZE} images")
    ]
    reference = np.concatenate(parts)
    if not np.isfinite(reference).all():
        raise BadInput(
            "The model returns NaN or infinity for real images: its weights or its scaling are "
            "wrong. Check the model in Keras first."
        )
    return reference


@contextlib.contextmanager
def _atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a folder that replaces *out* at the end; after an error, it is deleted."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        new, old = Path(folder) / "new", Path(folder) / "old"
        new.mkdir()
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)


def _check_out(out: Path) -> Path:
    """Check that *out* is free, empty or a model folder."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / FILE).is_file()):
        raise BadInput(f"{out} exists and is not a macule model folder: choose another --out.")
    return out


def _input_size(source: Source, requested: tuple[int, int] | None) -> tuple[int, int]:
    """Return the height and width of the input in pixels."""
    height, width = requested or (source.height or DEFAULT_SIDE_PX, source.width or DEFAULT_SIDE_PX)
    if not all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in (height, width)):
        raise BadInput(
            f"The input is {height} x {width} px; supported: {MIN_SIDE_PX} to {MAX_SIDE_PX} px."
        )
    return height, width


def _parse_side(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not height.isdigit() or not (width or height).isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not PX or HEIGHTxWIDTH")
    return int(height), int(width or height)


def _parse_constants(pairs: list[str]) -> dict[str, float]:
    constants = {}
    for pair in pairs:
        name, _, value = pair.rpartition("=")
        try:
            constants[name] = float(value)
        except ValueError as error:
            raise BadInput(f"--constant {pair} is not NAME=NUMBER.") from error
    return constants

"""`macule convert`: a user's model in, a small one with its card and its proof out."""

import argparse
import contextlib
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macule.convert import card_builder, export, scaling
from macule.convert.card_builder import Given, Tested, Trial
from macule.convert.errors import ConversionError
from macule.convert.evaluation import batch_inference, dataset
from macule.convert.evaluation.dataset import Images
from macule.convert.graph import out_of_distribution
from macule.convert.progress import Progress
from macule.convert.quantization import acceptance, candidates, comparison
from macule.convert.report import pages
from macule.convert.source import labelling, load
from macule.convert.source.load import Source
from macule.inference.runtime import arrange
from macule.registry.model_card import FILE

STEPS = 7
LEAST_SIDE_PX, MOST_SIDE_PX = 8, 640
DEFAULT_SIDE_PX = 224  # where the model's input size is free and --side is not given
CALIBRATION_IMAGES = 128
EVALUATION_IMAGES = 1000
SCALING_IMAGES = 200
BATCH = 16
# TensorFlow greets at length; and without oneDNN its answers are the same on every processor.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
# The service around a loaded model: gunicorn's arbiter, HTTP, Pillow, buffers. Measured for the
# default model: 81 MB for all processes against 50 MB for a bare process (docs/memory.md).
SERVICE_MB = 31.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `macule convert`."""
    add = parser.add_argument
    add("model", type=Path, help=".keras, .h5, SavedModel folder or .tflite")
    add("--out", type=Path, metavar="DIR", help="folder to write (default: the model's name)")
    add("--labels", metavar="FILE|a,b,c", help="in the order of the outputs")
    add("--names", metavar="FILE|a,b,c", help="what people read; JSON for several languages")
    add("--descriptions", metavar="FILE", help="a sentence for each label, JSON by language")
    add("--urgent", metavar="a,b", help="the labels that a doctor should see soon")
    add("--scaling", choices=["auto", *scaling.SCALINGS], default="auto")
    add("--channels", choices=["rgb", "bgr"], help="default: found, else rgb")
    add("--resize", choices=["squash", "crop", "pad"], default="squash")
    add("--side", type=_side, metavar="PX", help="input side, or HEIGHTxWIDTH")
    add("--calibration", type=Path, metavar="DIR", help="a hundred images like those to come")
    add("--eval", type=Path, metavar="DIR", help="labelled: a folder a class, or labels.csv")
    add("--precision", choices=["auto", "int8", "fp16", "dynamic", "fp32"], default="auto")
    add("--limit-mb", type=float, metavar="MB", help="memory of the whole service")
    add("--constant", action="append", default=[], metavar="NAME=VALUE", help="of a further input")
    add("--name", help="of the model (default: the file's)")
    add("--force", action="store_true", help="keep the scaling asked for, though another is better")
    for name, default in acceptance.Gate()._asdict().items():
        if default is not None:
            flag = f"--gate-{name.replace('_', '-')}"
            add(flag, type=float, default=default, metavar="SHARE", help=f"default: {default}")


def convert(options: argparse.Namespace, typed: str) -> tuple[Path, dict[str, Any]]:
    """Convert as the options say; *typed* is the command, for the report.

    Returns: the folder written, and the evidence that its report shows.
    Raises: Refused. The output is whole or not there.
    """
    os.environ.update(QUIET)
    progress = Progress(STEPS)
    out = _free(options.out or Path(options.model.name.split(".")[0] or "model"))
    given = _read(options, progress)

    progress.step("writing it as LiteRT, fp32")
    exported = export.export(given.source, *given.side_px)

    progress.step("finding the scaling")
    choice = _scale(given, exported, options, progress)

    exported = _know(given, exported, choice, progress)

    progress.step("asking the original")
    stand_ins = Images(dataset.synthetic_images(given.side_px), None, 0)
    judged = given.judged or stand_ins
    trial = Trial(
        judged.pixels,
        arrange(judged.pixels, choice.channels),
        judged.truth,
        scaling.mean_and_std(choice.name, choice.channels),
        proves=given.judged is not None,
    )
    before = _reference(given.source, trial, progress)

    progress.step("choosing a precision")
    samples = arrange((given.calibration or stand_ins).pixels, choice.channels)
    tested = _prove(options, exported, samples, trial, before, given.labels, progress)

    progress.step(f"writing {out}")
    best = next(one.candidate for one in tested if one.chosen)
    scores = batch_inference.logits_and_ood_scores(
        best.content, trial.pixels, trial.scaling, exported.output
    )
    made = card_builder.Made(given, exported, choice, trial, before, tested, *scores)
    card = card_builder.card(options, made)
    evidence = card_builder.evidence(options, typed, made, card)
    with _whole(out) as folder:
        (folder / card["file"]).write_bytes(best.content)
        text = json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")
        pages.write(folder, evidence)
    return out, evidence


def _read(options: argparse.Namespace, progress: Progress) -> Given:
    """Load the model, settle what its input and outputs are, decode the images."""
    progress.step(f"reading {options.model}")
    source = load.load(options.model, _constants(options.constant))
    side_px = _sides(source, options.side)
    labelled = dataset.list_photos(options.eval) if options.eval else []
    plain = dataset.list_photos(options.calibration) if options.calibration else labelled
    folders = sorted({photo.label for photo in labelled if photo.label})
    labels = labelling.read_labels(options.labels, options.model, folders, source.classes)
    texts = {
        "names": labelling.read_names(options.names, labels),
        "descriptions": labelling.read_descriptions(options.descriptions, labels),
        "urgent": labelling.read_urgent(options.urgent, labels),
    }
    if options.eval and not folders:
        raise ConversionError(f"{options.eval} has no labels: a folder a class, or a labels.csv.")

    progress.step(f"decoding images to {side_px[0]} x {side_px[1]} px")

    def decoded(photos: list[dataset.Photo], what: str) -> Images | None:
        if not photos:
            return None
        return dataset.decode_photos(photos, labels, side_px, options.resize, progress, what)

    # Where one folder knows splits, ranges come from its training images, figures from the others.
    calibration = dataset.sample_photos(plain, ["train"], CALIBRATION_IMAGES) if plain else []
    unlabelled = [photo._replace(label="") for photo in calibration]
    evaluation = (
        dataset.sample_photos(labelled, ["val", "test"], EVALUATION_IMAGES) if labelled else []
    )
    return Given(
        source, side_px, labels, texts,
        decoded(unlabelled, "for calibration"), decoded(evaluation, "for evaluation"),
    )  # fmt: skip


def _scale(
    given: Given, exported: export.Exported, options: argparse.Namespace, progress: Progress
) -> scaling.ScalingChoice:
    """Try every scaling where there are labelled images, and choose."""
    tried = []
    if given.evaluation and given.evaluation.truth is not None:
        order = np.random.default_rng(0).permutation(len(given.evaluation.pixels))[:SCALING_IMAGES]
        pixels, truth = given.evaluation.pixels[order], given.evaluation.truth[order]
        tried = scaling.try_all(exported, pixels, truth, given.source, progress)
    return scaling.choose(given.source, tried, options.scaling, options.channels, options.force)


def _know(
    given: Given, exported: export.Exported, choice: scaling.ScalingChoice, progress: Progress
) -> export.Exported:
    """Write the file anew with a distance from the calibration images, where there are enough.

    Where no others are given to set its thresholds by, every other one is left for that.
    """
    shown = given.calibration
    if shown is None or exported.precision != "fp32" or given.source.kind == "tflite":
        return exported
    pixels = shown.pixels if given.evaluation else shown.pixels[::2]
    if len(pixels) < out_of_distribution.MIN_IMAGES:
        return exported
    progress.say(f"learning from {len(pixels)} images what is familiar")
    numbers = scaling.mean_and_std(choice.name, choice.channels)
    known = batch_inference.scale(arrange(pixels, choice.channels), numbers)
    return export.export(given.source, *given.side_px, known)


def _reference(source: Source, trial: Trial, progress: Progress) -> NDArray[np.float32]:
    """Ask the original for its probabilities (n, classes), in its own framework."""
    starts = range(0, len(trial.pixels), BATCH)
    parts = [
        load.predict(
            source, batch_inference.scale(trial.pixels[start : start + BATCH], trial.scaling)
        )
        for start in progress.track(starts, len(starts), f"batches of {BATCH} images")
    ]
    before = np.concatenate(parts)
    if not np.isfinite(before).all():
        raise ConversionError(
            "The model answers real images with values that are not numbers: its weights or its "
            "scaling are broken. Check it in Keras first."
        )
    return before


def _prove(
    options: argparse.Namespace,
    exported: export.Exported,
    samples: NDArray[np.uint8],
    trial: Trial,
    before: NDArray[np.float32],
    labels: list[str],
    progress: Progress,
) -> list[Tested]:
    """Prove candidates, smallest first, until one passes every gate; mark the chosen one.

    A precision that was asked for by name is taken though it fails, unless it is too large.
    Raises: Refused where none is left, naming what each failed.
    """
    limit_mb = options.limit_mb - SERVICE_MB if options.limit_mb else None
    passing = acceptance.Gate(
        options.gate_agreement, options.gate_mean_change, options.gate_lost, limit_mb
    )
    made: Iterable[candidates.Candidate]
    if exported.precision == "fp32":
        wanted = options.precision
        made = candidates.generate_candidates(
            exported.content, samples, trial.scaling, wanted, progress.say
        )
    else:
        made = [candidates.Candidate("as it came", exported.precision, exported.content)]
    tested: list[Tested] = []
    for candidate in made:
        proof, failed = _judge(candidate, exported.output, passing, trial, before, labels)
        if not trial.proves and candidate.precision in ("int8", "dynamic"):
            failed.append("no image was given to prove it on")
        tested.append(Tested(candidate, proof, failed, chosen=not failed))
        progress.say(_line(tested[-1]))
        if not failed:
            return tested
    fits = [
        place
        for place, one in enumerate(tested)
        if one.proof.images and (limit_mb is None or one.proof.peak_mb <= limit_mb)
    ]
    if not fits or (options.precision == "auto" and exported.precision == "fp32"):
        raise ConversionError(_none_passed(tested, options.limit_mb))
    best = max(fits, key=lambda place: tested[place].proof.agreement)
    tested[best] = tested[best]._replace(chosen=True)
    return tested


def _judge(
    candidate: candidates.Candidate,
    output: str,
    passing: acceptance.Gate,
    trial: Trial,
    before: NDArray[np.float32],
    labels: list[str],
) -> tuple[comparison.Comparison, list[str]]:
    """Prove one candidate; returns the gates that it fails, or why it cannot be judged."""
    if candidate.why:
        return comparison.not_measured(candidate), [candidate.why]
    try:
        proof = comparison.compare(
            candidate, before, trial.pixels, trial.scaling, trial.truth, labels, output
        )
    except (ValueError, RuntimeError, subprocess.SubprocessError) as error:
        return comparison.not_measured(candidate), [f"LiteRT cannot run it ({str(error)[:160]})"]
    return proof, acceptance.failed_gates(passing, proof)


def _line(one: Tested) -> str:
    """Sum a tested candidate up for the terminal."""
    proof = one.proof
    if not proof.images:
        return f"{proof.name}: {one.failed[0]}"
    told = (
        f"{proof.name}: {proof.bytes / 2**20:.1f} MB, agrees in {proof.agreement:.1%} of "
        f"{proof.images}, {proof.p50_ms[1]:.1f} ms, peak {proof.peak_mb:.0f} MB"
    )
    return f"{told}; {'; '.join(one.failed)}" if one.failed else f"{told}: passes"


def _none_passed(tested: list[Tested], limit_mb: float | None) -> str:
    reasons = [f"  {one.proof.name}: {'; '.join(one.failed)}" for one in tested]
    peaks = [one.proof.peak_mb for one in tested if one.proof.images]
    least = min(peaks, default=math.inf) + SERVICE_MB
    way_out = (
        f"The least service needs about {least:.0f} MB and {limit_mb:.0f} are allowed: raise "
        "--limit-mb, or lower --side."
        if limit_mb and limit_mb < least < math.inf
        else "Give more --calibration images, or loosen a --gate."
    )
    return "\n".join(["No precision passes every gate:", *reasons, way_out])


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Give a folder that becomes *out* when all of it is written, and vanishes otherwise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        made, old = Path(folder) / "new", Path(folder) / "old"
        made.mkdir()
        yield made
        if out.exists():
            out.rename(old)
        made.rename(out)


def _free(out: Path) -> Path:
    """Refuse to write over what is no model of macule's."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / FILE).is_file()):
        raise ConversionError(f"{out} exists and is no model of macule's: choose another --out.")
    return out


def _sides(source: Source, asked: tuple[int, int] | None) -> tuple[int, int]:
    """Settle the input's height and width in pixels."""
    height, width = asked or (source.height or DEFAULT_SIDE_PX, source.width or DEFAULT_SIDE_PX)
    if not all(LEAST_SIDE_PX <= side <= MOST_SIDE_PX for side in (height, width)):
        raise ConversionError(
            f"The input is {height} x {width} px; {LEAST_SIDE_PX} to {MOST_SIDE_PX} are served."
        )
    return height, width


def _side(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not height.isdigit() or not (width or height).isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a side nor HEIGHTxWIDTH")
    return int(height), int(width or height)


def _constants(pairs: list[str]) -> dict[str, float]:
    constants = {}
    for pair in pairs:
        name, _, value = pair.rpartition("=")
        try:
            constants[name] = float(value)
        except ValueError as error:
            raise ConversionError(f"--constant {pair} is not NAME=NUMBER.") from error
    return constants

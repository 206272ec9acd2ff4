"""The deterministic training recipe: views, cross-validation, and the published files.

Each step writes its results into the folder *work*, and needs nothing but the results of earlier
steps. So an interrupted recipe goes on where it stopped, and steps that do not depend on each other
run in processes of their own.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert import export
from macule.convert.evaluation import batch_inference, folds, metrics
from macule.convert.quantization import quantize, rounding
from macule.train import domains, fine_tuning, inputs, stored
from macule.train.domains import Domains
from macule.train.images import views
from macule.train.inputs import Inputs
from macule.train.network import backbone
from macule.train.plan import Log, TrainingPlan

SCALING = (backbone.MEAN, backbone.STD)

# The first layers stay in float, because they cause most of the quantization noise. Error of the
# pooled features relative to fp32 on 200 training images, in standard deviations, and RSS of a bare
# process: all int8: 0.156, 48.2 MB; stem and block 0 in float: 0.123, 50.0 MB; block 1 too: 0.104,
# 52.7 MB. Block 1 stays in int8 because of the memory limit of 64 MB; the latency is the same.
FLOAT_LAYERS = "/(conv_stem|blocks_0_)"
CALIBRATION_IMAGES = 384
ALL = "all"  # the run on all images, which makes the published file
RUNS = (*(f"fold-{fold}" for fold in range(folds.FOLDS)), ALL)
FEATURES, HELD_OUT = "features.npz", "held_out.npz"  # in the folder of the work, and of a run


class Network(NamedTuple):
    """The network to train.

    `build` creates the pretrained Keras model for any input size, (n, side, side, 3), scaled by
    SCALING, to (n, h, w, features). `ood_layer` is the layer of the scores. The layers before
    `trained_from` keep their weights; that layer is their only connection with the others.
    """

    build: Callable[[int], Any]
    ood_layer: str
    trained_from: str


class Features(NamedTuple):
    """The pooled features (n, d) of the images of Inputs at the layer of the scores."""

    whole: NDArray[np.float32]
    squares: NDArray[np.float32]
    clinical: NDArray[np.float32]


class HeldOut(NamedTuple):
    """The answers of one run for the images at `places`, which were not in its training.

    `logits` (n, classes) and `scores` (n, 1 or 2) of the int8 file; `logits_fp32` of the fp32 file.
    """

    places: NDArray[np.int64]
    logits: NDArray[np.float32]
    scores: NDArray[np.float32]
    logits_fp32: NDArray[np.float32]

    def select(self, wanted: NDArray[Any]) -> "HeldOut":
        """Return the answers of some images, by index or mask (n,)."""
        return HeldOut(*(column[wanted] for column in self))


class Files(NamedTuple):
    """A trained network as LiteRT files."""

    int8: bytes
    fp32: bytes


def compute_views(network: Network, plan: TrainingPlan, work: Path, epoch: int, log: Log) -> None:
    """Compute the views of one epoch."""
    log(f"views of epoch {epoch + 1} of {plan.epochs}")
    lower, _ = views.split(network.build(plan.side_px), network.trained_from)
    views.save(
        views.path_of(work, epoch), views.draw(lower, inputs.load(work).whole, SCALING, plan, epoch)
    )


def compute_features(network: Network, work: Path, log: Log) -> None:
    """Compute the features of all images."""
    import keras

    log("features of the scores")
    given = inputs.load(work)
    body = network.build(given.whole.shape[1])
    pooled = keras.layers.GlobalAveragePooling2D()(body.get_layer(network.ood_layer).output)
    model = keras.Model(body.inputs, pooled)

    def features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = [
            pixels[start : start + views.BATCH] for start in range(0, len(pixels), views.BATCH)
        ]
        found = [model.predict_on_batch(batch_inference.scale(part, SCALING)) for part in parts]
        return np.concatenate([np.empty((0, model.output_shape[1]), np.float32), *found])

    computed = Features(*map(features, (given.whole, given.squares, given.clinical)))
    stored.write(work / FEATURES, computed)


def train_run(network: Network, plan: TrainingPlan, work: Path, run: str, log: Log) -> None:
    """Train on the images of a run, and answer the images that it leaves out."""

    def tell(line: str) -> None:
        log(f"{run}: {line}")

    weights = train(network, plan, work, run, tell)
    if run == ALL:
        return
    tell("exporting")
    files = assemble(network, work, run, weights)
    given = inputs.load(work)
    _, held = split(given, run)
    tell(f"answering {len(held)} images left out")
    pixels = given.whole[held]
    (logits, scores), (logits_fp32, _) = (answer(content, pixels) for content in files)
    stored.write(work / run / HELD_OUT, HeldOut(held, logits, scores, logits_fp32))


def split(given: Inputs, run: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the images that a run is trained on, and of those it leaves out."""
    is_held = given.fold_of == (-1 if run == ALL else RUNS.index(run))
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def train(
    network: Network, plan: TrainingPlan, work: Path, run: str, log: Log
) -> list[NDArray[np.float32]]:
    """Train the upper layers and the head; returns their weights, those of the head last."""
    given = inputs.load(work)
    members, _ = split(given, run)
    _, upper = views.split(network.build(plan.side_px), network.trained_from)
    epochs = views.load(work, plan.epochs)
    model = fine_tuning.fine_tune(upper, epochs, given.truth, members, plan, work / run, log)
    return list(model.get_weights())


def assemble(
    network: Network,
    work: Path,
    run: str,
    weights: list[NDArray[np.float32]],
    shift: NDArray[np.float32] | float = 0.0,
) -> Files:
    """Make the files of a run: network, maps, and the scores of its images.

    The network is trained on crops, and used on whole images, in which a lesion has the same size
    as in the crops (Touvron et al. 2019, arXiv 1906.06423).

    Args:
      weights: as `train` returns them.
      shift: added to the bias of the head, (classes,).
    """
    given = inputs.load(work)
    members, _ = split(given, run)
    *inner, kernel, bias = weights
    body = network.build(given.whole.shape[1])
    views.split(body, network.trained_from)[1].set_weights(inner)
    scores = fit_domains(work, given, members)
    head = kernel, np.asarray(bias + shift, np.float32)
    fp32 = export.export_with_head(body, *head, (network.ood_layer, scores.build))
    samples = calibration_images(given.whole[members])
    bounds = batch_inference.scaled_bounds(SCALING)
    pattern = quantize.float_pattern(fp32, FLOAT_LAYERS)
    return Files(rounding.int8(fp32, samples, bounds, pattern), fp32)


def load_features(work: Path) -> Features:
    return stored.read(work / FEATURES, Features)


def fit_domains(work: Path, given: Inputs, members: NDArray[np.int64]) -> Domains:
    """Fit the scores on the images of *members* and the clinical photos."""
    features = load_features(work)
    squares = features.squares[np.isin(given.square_of, members)]
    return domains.fit(np.concatenate([features.whole[members], squares]), features.clinical)


def answer(
    content: bytes, pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the logits (n, classes) and the scores (n, 1 or 2) of a file."""
    logits, scores = batch_inference.logits_and_ood_scores(content, pixels, SCALING)
    return logits, np.empty((0, 0), np.float32) if scores is None else scores


def load_held_out(work: Path) -> HeldOut:
    """Return the answers of all folds, in the order of the images."""
    parts = [stored.read(work / run / HELD_OUT, HeldOut) for run in RUNS[:-1]]
    answers = HeldOut(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return answers.select(np.argsort(answers.places))


def fit_bias_shift(logits: metrics.Floats, truth: metrics.Ints) -> NDArray[np.float32]:
    """Fit a bias shift per class on held-out images.

    Training uses other class frequencies and augmentation. The shift minimises the log loss,
    together with a temperature, with class weights from the square root of the inverse frequency:
    a compromise between the class frequencies of the images and equal weights.
    Source: bias-corrected temperature scaling, Alexandari et al. 2020, arXiv 1901.06852.

    Args:
      logits: (n, classes) of images that were not used for training.

    Returns: (classes,), 0 for the first.
    """
    from scipy.optimize import minimize

    classes = logits.shape[1]
    weights = fine_tuning.class_weights(truth, classes)[truth]

    def loss(values: NDArray[np.float64]) -> float:
        shifted = logits + np.append(0, values[1:])
        shares = metrics.softmax(shifted, float(np.exp(values[0])))
        return float(-(weights * np.log(shares[np.arange(len(truth)), truth] + 1e-12)).mean())

    # about the temperatures of `metrics.fit_temperature`, and shifts of up to a factor of 20
    bounds = [(-3.0, 3.0)] * classes
    best = minimize(loss, np.zeros(classes), method="L-BFGS-B", bounds=bounds).x
    return np.append(0, best[1:]).astype(np.float32)


def calibration_images(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Sample the scaled images that calibrate the int8 ranges."""
    chosen = np.random.default_rng(0).permutation(len(pixels))[:CALIBRATION_IMAGES]
    return [batch_inference.scale(pixels[place][None], SCALING) for place in chosen]


def steps(network: Network, plan: TrainingPlan, work: Path) -> list[list[Callable[[Log], None]]]:
    """List the steps that are left; those of a stage only need the stages before it."""
    epochs = [e for e in range(plan.epochs) if not views.path_of(work, e).exists()]
    runs = [run for run in reversed(RUNS) if not is_finished(plan, work, run)]
    features = [] if (work / FEATURES).exists() else [partial(compute_features, network, work)]
    return [
        [*features, *(partial(compute_views, network, plan, work, epoch) for epoch in epochs)],
        [partial(train_run, network, plan, work, run) for run in runs],
    ]


def is_finished(plan: TrainingPlan, work: Path, run: str) -> bool:
    """Return whether a run is trained, and has answered the images that it leaves out."""
    if run == ALL:
        return fine_tuning.count_epochs(work / run) == plan.epochs
    return (work / run / HELD_OUT).exists()

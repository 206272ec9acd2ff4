"""Selection of the pixel scaling, from the layers of the model and from labelled images."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.errors import BadInput
from macule.convert.evaluation import batch_inference, metrics
from macule.convert.evaluation.batch_inference import arrange
from macule.convert.export import Exported
from macule.convert.progress import Progress
from macule.convert.source.load import Source

# (pixel - mean) / std in RGB order, by the names of --scaling.
SCALINGS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "none": ((0, 0, 0), (1, 1, 1)),
    "0..1": ((0, 0, 0), (255, 255, 255)),
    "-1..1": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": ((123.68, 116.779, 103.939), (1, 1, 1)),
}
# What keras.applications' preprocess_input does for each family; the longest match is used.
CONVENTIONS = {
    "DenseNet": "imagenet",
    "EfficientNet": "none",
    "Inception": "-1..1",
    "MobileNet": "-1..1",
    "MobileNetV3": "none",
    "ConvNeXt": "none",
    "NASNet": "-1..1",
    "ResNet": "caffe",
    "ResNet50V2": "-1..1",
    "ResNet101V2": "-1..1",
    "ResNet152V2": "-1..1",
    "VGG": "caffe",
    "Xception": "-1..1",
    "teachable-machine": "-1..1",
}
# most common in training scripts first
BY_FREQUENCY = ("0..1", "-1..1", "none", "imagenet", "caffe")
GRAY_SCALINGS = ("none", "0..1", "-1..1", "imagenet")  # caffe needs three channels
Z_95 = 1.96  # standard deviations of the paired difference (McNemar): 95 %
MIN_GAIN = 0.02  # of accuracy; a smaller gain does not override a convention


class ScalingTrial(NamedTuple):
    """The result of one scaling on the labelled images.

    `right` (n,) marks the correct answers; `losses` (n,) are log losses at the best temperature
    for this scaling, weighted so that all classes have equal weight.
    """

    name: str
    channels: str
    accuracy: float
    balanced_accuracy: float
    confidence: float
    right: NDArray[np.bool_]
    losses: NDArray[np.float64]


class ScalingChoice(NamedTuple):
    """The chosen scaling; `sure` is found, likely, convention, assumed, asked or forced."""

    name: str
    channels: str
    sure: str
    why: str
    table: list[ScalingTrial]


def mean_and_std(name: str, channels: str) -> batch_inference.Scaling:
    """Return mean and std of the scaling *name*, in the order of *channels*."""
    mean, std = SCALINGS[name]
    if channels == "gray":
        return (float(np.mean(mean)),), (float(np.mean(std)),)
    return (mean[::-1], std[::-1]) if channels == "bgr" else (mean, std)


def default_scaling(source: Source) -> tuple[str, str, str]:
    """Return the default without images: scaling, confidence and reason."""
    if source.takes_raw_pixels:
        return "none", "found", f"the model has scaling layers ({'; '.join(source.scaling_layers)})"
    name = source.backbone or ""
    fits = [family for family in CONVENTIONS if name.startswith(family)]
    if fits:
        chosen = CONVENTIONS[max(fits, key=len)]
        return chosen, "convention", f"{name} uses this scaling in keras.applications"
    why = "the model does not indicate a scaling, and most training scripts divide by 255"
    return "0..1", "assumed", why


def try_all(
    exported: Exported,
    pixels: NDArray[np.uint8],
    truth: NDArray[np.int64],
    source: Source,
    progress: Progress,
) -> list[ScalingTrial]:
    """Score every scaling, in both channel orders, on labelled *pixels* (n, h, w, 3) RGB."""
    orders = ["gray"] if source.channels == 1 else ["rgb", "bgr"]
    names = GRAY_SCALINGS if source.channels == 1 else SCALINGS
    pairs = [(name, order) for order in orders for name in names]
    counts = np.bincount(truth, minlength=source.classes)[truth]
    weights = len(truth) / counts / len(np.unique(truth))
    trials = []
    for name, order in progress.track(pairs, len(pairs), "trying scalings"):
        logits = batch_inference.logits(
            exported.content, arrange(pixels, order), mean_and_std(name, order), exported.output
        )
        shares = metrics.softmax(logits, metrics.fit_temperature(logits, truth))
        found = shares.argmax(axis=1)
        balanced = float(np.nanmean(metrics.sensitivity(found, truth, shares.shape[1])))
        right = found == truth
        losses = -np.log(np.maximum(shares[np.arange(len(truth)), truth], 1e-12)) * weights
        top = float(metrics.softmax(logits).max(axis=1).mean())
        trials.append(ScalingTrial(name, order, float(right.mean()), balanced, top, right, losses))
    return trials


def choose(
    source: Source, trials: list[ScalingTrial], wanted: str, channels: str | None, forced: bool
) -> ScalingChoice:
    """Choose the requested scaling, else the default of the model, else the best for the images.

    Raises: BadInput if the requested scaling is significantly worse and not *forced*.
    """
    assumed, sure, why = default_scaling(source)
    name = assumed if wanted == "auto" else wanted
    order = "gray" if source.channels == 1 else channels or ("bgr" if name == "caffe" else "rgb")
    if wanted != "auto":
        sure, why = "asked", "it was requested"
    if not trials:
        return ScalingChoice(name, order, sure, why, [])
    current = next(one for one in trials if (one.name, one.channels) == (name, order))
    best = max(trials, key=lambda one: one.accuracy)
    is_good = not is_significantly_better(best, current)
    scores = f"{current.accuracy:.1%} of {len(current.right)} images are correct"
    comparison = (
        f"{best.name} in {best.channels} order is correct for {best.accuracy:.1%} of the images, "
        f"{current.name} in {current.channels} order {current.accuracy:.1%}"
    )
    if wanted != "auto" or (channels and not is_good and best.channels != channels):
        if is_good:
            return ScalingChoice(name, order, "asked", f"{why}; {scores}", trials)
        if forced:
            why = f"it was forced, although {comparison}"
            return ScalingChoice(name, order, "forced", why, trials)
        raise BadInput(
            f"This scaling would be wrong: {comparison}. Omit --scaling and --channels, or add "
            "--force if the images are wrong."
        )
    if is_good and sure != "assumed":
        why = f"{why}; {scores}, no other scaling is significantly better"
        return ScalingChoice(name, order, "found", why, trials)
    return choose_by_images(trials, best)


def choose_by_images(trials: list[ScalingTrial], best: ScalingTrial) -> ScalingChoice:
    """Choose by the images: the lowest log loss among the scalings with the best accuracy.

    If several losses do not differ significantly, choose the most common scaling.
    """
    rivals = [one for one in trials if not is_significantly_better(best, one)]
    least = min(rivals, key=lambda one: float(one.losses.mean()))
    alike = [one for one in rivals if one is least or not has_significantly_lower_loss(least, one)]
    chosen = min(alike, key=lambda one: (one.channels == "bgr", BY_FREQUENCY.index(one.name)))
    share = f"{chosen.accuracy:.1%} of the {len(chosen.right)} labelled images are correct"
    if len(alike) == 1:
        why = f"it fits the images better than all others; {share}"
        return ScalingChoice(chosen.name, chosen.channels, "found", why, trials)
    others = [f"{one.name} in {one.channels}" for one in alike if one is not chosen]
    why = f"it fits the images best and is common; {share}; {', '.join(others[:3])} fits as well"
    return ScalingChoice(chosen.name, chosen.channels, "likely", why, trials)


def is_significantly_better(one: ScalingTrial, other: ScalingTrial) -> bool:
    """Test whether *one* is significantly more accurate than *other* (McNemar)."""
    gained, lost = int((one.right & ~other.right).sum()), int((other.right & ~one.right).sum())
    enough = one.accuracy - other.accuracy >= MIN_GAIN
    return enough and gained - lost >= Z_95 * (gained + lost) ** 0.5


def has_significantly_lower_loss(one: ScalingTrial, other: ScalingTrial) -> bool:
    """Test whether *one* has a significantly lower log loss than *other* (paired, normal)."""
    gains = other.losses - one.losses
    spread = float(gains.std()) / max(len(gains), 1) ** 0.5
    return bool(gains.mean() > Z_95 * spread)

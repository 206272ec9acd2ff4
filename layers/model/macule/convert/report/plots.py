"""The plots of the reports: SVG in the colours of the page, and activation maps as JPEG."""

import contextlib
import itertools
import re
import warnings
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO, StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import metrics
from macule.convert.evaluation.metrics import BINS
from macule.inference.activation_maps import COLOUR_STOPS, MAX_OPACITY

MIN_BIN_IMAGES = 5  # with fewer images, the accuracy of a bin is not reliable
MAP_PX = 224
# Placeholders for CSS colours, so that a plot works in light mode, dark mode and print.
INK, FAINT, BEFORE, AFTER, PAPER = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
ROLES = {"ink": INK, "faint": FAINT, "before": BEFORE, "after": AFTER, "paper": PAPER}
# Dots are rasterised, so CSS cannot change them: these two colours are visible on white and black.
SAME_ANSWER, CHANGED_ANSWER = "#3f87cf", "#d9541e"
STYLE: Any = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",  # keep text searchable, without embedded glyphs
    "text.color": INK,
    "text.parse_math": False,  # $ has no special meaning
    "xtick.color": INK,
    "ytick.color": INK,
}
Floats = metrics.Floats
Ints = metrics.Ints


def reliability(before: Floats, after: Floats, truth: Ints) -> str:
    """Draw the accuracy of the top answers by confidence."""
    with new_figure(4.2, 4.6) as drawing:
        axes, below = drawing.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        styles = ((-1, "before", before, BEFORE, "o", "-"), (1, "after", after, AFTER, "s", "--"))
        for side, name, part, colour, marker, line in styles:
            middle, top, right, counts = metrics.reliability_bins(part, truth)
            error = metrics.calibration_error(part, truth)
            label = f"{name}, ECE {error:.3f}"
            axes.plot(top, right, color=colour, linestyle=line, marker=marker, label=label)
            few = counts < MIN_BIN_IMAGES
            axes.plot(top[few], right[few], marker, color=colour, markerfacecolor=PAPER)
            below.bar(middle + side * 0.22 / BINS, counts, 0.4 / BINS, color=colour)
        axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), ylabel="accuracy")
        below.set(xlabel="confidence in the top answer", ylabel="images")
        axes.legend(loc="lower right")
        return svg(drawing, "reliability")


def agreement(before: Floats, after: Floats) -> str:
    """Draw all probabilities, before and after."""
    other = before.argmax(axis=1) != after.argmax(axis=1)
    with new_figure(4.2, 4.6) as drawing:
        axes = drawing.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        for rows, colour, marker, name in (
            (~other, SAME_ANSWER, "o", f"same answer, {int((~other).sum())} images"),
            (other, CHANGED_ANSWER, "x", f"changed answer, {int(other.sum())} images"),
        ):
            # Rasterised, because 1,000 images of 40 classes as SVG circles need several MB.
            x, y = before[rows].ravel(), after[rows].ravel()
            opacity = min(1.0, max(0.15, 400 / max(x.size, 1)))
            axes.scatter(
                x, y, 14, c=colour, marker=marker, alpha=opacity, linewidths=1, rasterized=True
            )
            axes.plot([], [], marker, color=colour, label=name)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set(xlabel="probability before", ylabel="probability after")
        drawing.legend(loc="outside upper left", ncols=1)
        return svg(drawing, "agreement")


def changes(before: Floats, after: Floats) -> str:
    """Draw a histogram of the changes of probabilities, on a logarithmic scale."""
    change = (after - before).ravel()
    reach = max(float(np.abs(change).max()), 0.005)
    with new_figure(4.2, 3.2) as drawing:
        axes = drawing.subplots()
        axes.hist(change, bins=41, range=(-reach, reach), color=AFTER, log=True)
        axes.axvline(0, color=FAINT, linewidth=1, linestyle=":")
        axes.set(ylim=(0.7, None))  # a count of 1 is visible
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.set(xlabel="change of a probability (after − before)", ylabel="probabilities")
        return svg(drawing, "changes")


def roc_curves(probabilities: Floats, truth: Ints, labels: Sequence[str]) -> str:
    """Draw the ROC curve of each label against the rest."""
    with new_figure(4.2, 4.6) as drawing:
        axes = drawing.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        styles = itertools.cycle(itertools.product(("-", "--", "-.", ":"), (BEFORE, AFTER, INK)))
        for index, label in enumerate(labels):
            positive = truth == index
            if positive.all() or not positive.any():
                continue
            line, colour = next(styles)
            order = np.argsort(-probabilities[:, index], kind="stable")
            true_positives = np.concatenate([[0], np.cumsum(positive[order]) / positive.sum()])
            false_positives = np.concatenate([[0], np.cumsum(~positive[order]) / (~positive).sum()])
            area = metrics.auc(probabilities[:, index], positive)
            name = f"{label}, AUC {area:.3f}"
            axes.plot(false_positives, true_positives, color=colour, linestyle=line, label=name)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        axes.legend(loc="lower right", fontsize=8)
        return svg(drawing, "operating")


def risk_coverage(points: Sequence[tuple[float, float]], chosen: Mapping[str, float]) -> str:
    """Draw risk against coverage, and the operating point of the model."""
    with new_figure(4.2, 3.6) as drawing:
        axes = drawing.subplots()
        coverage, risk = np.asarray(points).T
        axes.plot(coverage, risk, color=BEFORE)
        risk_chosen = 1 - chosen["accuracy_of_classified"]
        axes.plot(chosen["coverage"], risk_chosen, "s", color=AFTER, markersize=8)
        axes.set(xlim=(0, 1.02), ylim=(0, None))
        axes.set(xlabel="coverage", ylabel="share of wrong answers")
        return svg(drawing, "selective")


@contextlib.contextmanager
def new_figure(width_in: float, height_in: float) -> Iterator[Any]:
    """Yield an empty figure in STYLE, without global state."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        yield Figure(figsize=(width_in, height_in), layout="constrained")


def svg(drawing: Any, name: str) -> str:
    """Return a figure as an `<svg>` element for a page.

    The size is left to the page, placeholder colours become CSS variables (`var(--ink)`, …), and
    all ids start with *name*, so that ids are unique on a page.
    """
    from matplotlib import rc_context

    file = StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The browser draws glyphs that the font used for layout does not have.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        drawing.savefig(file, format="svg", transparent=True, metadata=no_metadata, dpi=160)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for size in ("height", "width"):
        text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(\bid="|"#|url\(#)', rf"\1{name}-", text)
    for role, colour in ROLES.items():
        text = text.replace(colour, f"var(--{role})")
    return text


def image_uri(pixels: NDArray[np.uint8]) -> str:
    """Return an image (h, w, 3) as a small JPEG data URI."""
    return jpeg_uri(shrink(pixels))


def overlay_uri(pixels: NDArray[np.uint8], activation: Floats) -> str:
    """Overlay a map (fh, fw) on its image (h, w, 3), in the colours of the service."""
    from PIL.Image import Resampling, composite, fromarray

    small = shrink(pixels)
    positive = np.nan_to_num(np.maximum(activation, 0))
    peak = float(positive.max())
    levels = (positive * (255 / peak) if peak > 0 else positive).astype(np.uint8)
    weight = fromarray(levels).resize(small.size, Resampling.BICUBIC)
    places = [place for place, _ in COLOUR_STOPS]
    colours = np.asarray([colour for _, colour in COLOUR_STOPS])
    bands = [np.interp(np.arange(256), places, band) for band in colours.T]
    heat = fromarray(np.stack(bands, axis=1).astype(np.uint8)[np.asarray(weight)])
    opacity = weight.point([round(level * MAX_OPACITY) for level in range(256)])
    return jpeg_uri(composite(heat, small, opacity))


def shrink(pixels: NDArray[np.uint8]) -> Any:
    """Resize an image (h, w, 3) to MAP_PX on its longer side."""
    from PIL.Image import fromarray

    image = fromarray(np.ascontiguousarray(pixels))
    part = MAP_PX / max(image.size)
    return image.resize((max(1, round(image.width * part)), max(1, round(image.height * part))))


def jpeg_uri(image: Any) -> str:
    file = BytesIO()
    image.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + b64encode(file.getvalue()).decode("ascii")

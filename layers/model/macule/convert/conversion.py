"""The data of a conversion: its inputs, the comparison images, the candidates and the result."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert import export, out_of_fold, scaling
from macule.convert.evaluation import batch_inference
from macule.convert.evaluation.dataset import Images
from macule.convert.quantization.candidates import Candidate
from macule.convert.quantization.comparison import Comparison
from macule.convert.source.load import Source

NO_IMAGES = (
    "No images were given. The int8 ranges and all agreement figures come from synthetic images "
    "and prove nothing. Convert again with --calibration DIR before you use the model."
)


class Inputs(NamedTuple):
    """The user's inputs: the model, the meaning of its outputs, and images, if any.

    `texts` are the card's `names`, `descriptions` and `urgent`.
    """

    source: Source
    side_px: tuple[int, int]
    labels: list[str]
    texts: dict[str, Any]
    calibration: Images | None
    evaluation: Images | None

    @property
    def comparison_images(self) -> Images | None:
        """The images on which candidates are compared with the original."""
        return self.evaluation or self.calibration

    @property
    def image_files(self) -> list[Path]:
        """The files that the conversion looks at: they set ranges, scaling and thresholds."""
        given = (self.calibration, self.evaluation)
        return [photo.path for images in given if images for photo in images.photos]


class ComparisonImages(NamedTuple):
    """The images of the comparison: `rgb` as decoded, `pixels` in the network's channel order.

    `synthetic` is True if the user gave no images.
    """

    rgb: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    truth: NDArray[np.int64] | None
    scaling: batch_inference.Scaling
    synthetic: bool


class CandidateResult(NamedTuple):
    """A candidate, its comparison with the original, and the gates that it fails."""

    candidate: Candidate
    comparison: Comparison
    failed: list[str]
    chosen: bool


class Conversion(NamedTuple):
    """The result of a conversion.

    `reference` (n, classes) are the probabilities of the original. `logits` (n, classes) and
    `ood_scores` (n,), if any, are those of the chosen file, on the same images. `calibrated` is
    None with too few labelled images.
    """

    inputs: Inputs
    exported: export.Exported
    scaling: scaling.ScalingChoice
    images: ComparisonImages
    reference: NDArray[np.float32]
    results: list[CandidateResult]
    logits: NDArray[np.float32]
    ood_scores: NDArray[np.float32] | None
    calibrated: out_of_fold.Calibrated | None

    @property
    def chosen(self) -> CandidateResult:
        return next(result for result in self.results if result.chosen)

"""What a caller asks for besides the image; the same for routes, jobs, commands and cache keys."""

from __future__ import annotations

from typing import NamedTuple

TTA_PASSES = (1, 4)


class PredictOptions(NamedTuple):
    """Options of one prediction.

    `top_k`: how many labels to return; None for all. `with_cam`: whether to draw the activation
    map of the most probable label. `tta`: passes of the network, 1 or 4: test-time augmentation.
    `coverage_percent`: the coverage of the prediction set to return; None for no set.
    """

    top_k: int | None = None
    with_cam: bool = False
    tta: int = 1
    coverage_percent: int | None = None


DEFAULT_OPTIONS = PredictOptions()

"""What a caller asks for besides the image; the same for routes, jobs, commands and cache keys."""

from __future__ import annotations

from typing import NamedTuple


class PredictOptions(NamedTuple):
    """Options of one prediction.

    `top_k`: how many labels to return; None for all. `with_cam`: whether to draw the activation
    map of the most probable label.
    """

    top_k: int | None = None
    with_cam: bool = False


DEFAULT_OPTIONS = PredictOptions()

"""Degradation levels: the features that are switched off step by step when memory runs short."""

from __future__ import annotations

import logging
from typing import NamedTuple

from macule.observability import metrics

log = logging.getLogger("macule")


class Level(NamedTuple):
    """What stays enabled from a share (0 to 1) of the limit on; `slots` None keeps all slots."""

    name: str
    share: float
    cache: bool
    overlays: bool
    slots: int | None
    serves: bool


# Shares of memory that cannot be reclaimed: the kernel can reclaim the page cache itself.
LEVELS = (
    Level("everything", 0.0, cache=True, overlays=True, slots=None, serves=True),
    Level("no cache", 0.85, cache=False, overlays=True, slots=None, serves=True),
    Level("no overlays", 0.88, cache=False, overlays=False, slots=None, serves=True),
    Level("one image at a time", 0.93, cache=False, overlays=False, slots=1, serves=True),
    Level("refusing", 0.98, cache=False, overlays=False, slots=1, serves=False),
)


class DegradationLevels:
    """The current level; each change is logged and counted once."""

    def __init__(self) -> None:
        self.level = LEVELS[0]

    def update(self, share: float) -> Level:
        """Return the level of *share*; log it if it differs from the previous one."""
        level = next(level for level in reversed(LEVELS) if share >= level.share)
        if level != self.level:
            degraded = level.share > self.level.share
            severity = logging.WARNING if degraded else logging.INFO
            facts = {"event": "ladder", "rung": level.name}
            message = "memory at %.0f %% of the limit: %s"
            log.log(severity, message, share * 100, level.name, extra={"facts": facts})
            metrics.add("macule_ladder_steps_total", level.name)
            self.level = level
        return level

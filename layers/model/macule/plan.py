"""`macule plan`: what a model will need, and what fits an instance, before it is deployed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from macule import admission, budget, decoding, model, processes
from macule.decoding import jpeg
from macule.settings import Where

MB = 2**20
# Around the bare process that is measured here: gunicorn's arbiter, HTTP, threads, and the code
# that must stay in memory. The default model, 27 MB of private memory in such a process, holds
# under a limit of 64 MB and no longer at 60 (`macule fit`, docs/memory.md).
SERVICE_BYTES = 31 * MB
# What a worker holds beside the bare process where no cgroup tells what the kernel could take back,
# so that admission counts its pages of files too: 59 MB in the bare process, and the first
# MEMORY_LIMIT_MB under which photo after photo is answered is 80 (docs/memory.md).
WORKER_BYTES = 16 * MB
PHOTO = ("JPEG", 4032, 3024)  # what a phone sends
# Memory of what clouds sell, in MB.
TIERS = (
    ("Cloud Run functions, Lambda: least", 128),
    ("Cloud Run functions: second", 256),
    ("Render free and starter, Cloud Run functions: third", 512),
)


class Need(NamedTuple):
    """Bytes that a bare process has after its first prediction, by what asked for them."""

    python: int
    runtime: int
    model: int
    private: int  # of all these, what no file on disk backs

    @property
    def service(self) -> int:
        """The least limit that the whole service holds under, before any photo is decoded."""
        return self.private + SERVICE_BYTES + admission.RESERVE_BYTES

    @property
    def worker(self) -> int:
        """The same for a limit that no kernel enforces, such as MEMORY_LIMIT_MB, of each worker."""
        whole = self.python + self.runtime + self.model
        return whole + WORKER_BYTES + admission.RESERVE_BYTES


class Fit(NamedTuple):
    """What an instance of *limit_mb* does."""

    limit_mb: float
    free_mb: float
    slots: int
    largest_mp: dict[str, float]


def measure(where: Where) -> tuple[Need, model.Warm]:
    """Load a model in this process, run it once, and see what that took.

    Raises: ModelUnavailable, BadCard.
    """
    import numpy as np

    budget.tame()
    before = processes.resident()
    warm = model.warm(where)
    model.run(warm, np.zeros((1, *decoding.sides(warm.card.side_px), 3), np.uint8))
    grown = warm.grown
    need = Need(
        before,
        grown["import"],
        grown["fetch"] + grown["load"] + grown["first"],
        processes.private(),
    )
    return need, warm


def fit(least: int, side_px: int | tuple[int, int], limit_mb: float, max_pixels: int) -> Fit:
    """Say what fits a limit beside the *least* bytes that serving takes.

    Returns: phone photos at once, and the largest photo of each kind.
    """
    free = int(limit_mb * MB) - least
    header = decoding.Header(*PHOTO, "RGB", 1, 0.0, False, jpeg.SCALES)
    slots = max(0, free // admission.price(header, side_px))
    return Fit(limit_mb, free / MB, slots, admission.largest(free, side_px, max_pixels))


def lines(
    need: Need, warm: model.Warm, limits_mb: Sequence[float], max_pixels: int
) -> Iterator[str]:
    """Write the ledger and the verdicts for a terminal."""
    card = warm.card
    yield f"{card.name} {card.version} ({card.precision}), {_mb(need.service)} MB and a photo"
    for name, size in (
        ("Python and numpy", need.python),
        ("runtime", need.runtime),
        ("model: weights and arena", need.model),
        ("of these private", need.private),
        ("service around it", SERVICE_BYTES),
        ("reserve", admission.RESERVE_BYTES),
    ):
        yield f"  {name:<26} {_mb(size):>6} MB"
    tiers = [(f"{limit:g} MB", limit) for limit in limits_mb]
    for name, limit_mb in tiers or [(f"{mb} MB ({name})", mb) for name, mb in TIERS]:
        found = fit(need.service, card.side_px, limit_mb, max_pixels)
        if not found.slots:
            short = f"does not hold; it is {-found.free_mb:.1f} MB short"
            small = f"holds, but no photo of 12 MP fits into the {found.free_mb:.1f} MB left"
            yield f"{name}: {short if found.free_mb < 0 else small}"
            continue
        largest = ", ".join(f"{kind} {mp:g}" for kind, mp in found.largest_mp.items())
        yield f"{name}: holds, {found.free_mb:.0f} MB for photos, {found.slots} of 12 MP at once"
        yield f"  largest, in MP: {largest}"


def _mb(size: int) -> str:
    return f"{size / MB:.1f}"

"""`macule plan`: what a model will need, and what fits an instance, before it is deployed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from macule.inference import decoding, native_stderr, runtime
from macule.inference.decoding import cost
from macule.inference.decoding.formats import jpeg
from macule.memory import admission, allocator, processes
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


class Footprint(NamedTuple):
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


class Capacity(NamedTuple):
    """What an instance of *limit_mb* does."""

    limit_mb: float
    free_mb: float
    slots: int
    largest_mp: dict[str, float]


def measure(where: Where) -> tuple[Footprint, runtime.Warm]:
    """Load a model in this process, run it once, and see what that took.

    Raises: ModelUnavailable, BadCard.
    """
    import numpy as np

    allocator.configure()
    before = processes.resident()
    with native_stderr.held():
        warm = runtime.warm(where)
    runtime.run(warm, np.zeros((1, *decoding.sides(warm.card.side_px), 3), np.uint8))
    grown = warm.grown
    need = Footprint(
        before,
        grown["import"],
        grown["fetch"] + grown["load"] + grown["first"],
        processes.private(),
    )
    return need, warm


def compute_capacity(
    least: int, side_px: int | tuple[int, int], limit_mb: float, max_pixels: int
) -> Capacity:
    """Say what fits a limit beside the *least* bytes that serving takes.

    Returns: phone photos at once, and the largest photo of each kind.
    """
    free = int(limit_mb * MB) - least
    header = decoding.Header(*PHOTO, "RGB", 1, 0.0, False, jpeg.SCALES)
    slots = max(0, free // cost.price(header, side_px))
    return Capacity(limit_mb, free / MB, slots, cost.largest_mp(free, side_px, max_pixels))


def memory_breakdown(need: Footprint) -> tuple[dict[str, float], float]:
    """Return what serving takes, by what asks for it, and the sum: MB, as they are shown.

    Each is rounded before they are summed, so that the lines add up to the last one.
    """
    whole = need.python + need.runtime + need.model
    sizes = {
        "Python and numpy": need.python,
        "runtime": need.runtime,
        "model: weights and arena": need.model,
        "pages of files, which the kernel takes back": need.private - whole,
        "service around it": SERVICE_BYTES,
        "reserve for sockets and answers": admission.RESERVE_BYTES,
    }
    tenths = {name: round(10 * size / MB) for name, size in sizes.items()}
    return {name: count / 10 for name, count in tenths.items()}, sum(tenths.values()) / 10


def report(
    need: Footprint, warm: runtime.Warm, limits_mb: Sequence[float], max_pixels: int
) -> tuple[list[str], bool]:
    """Write the ledger and a verdict for each limit, or for what clouds sell where there is none.

    Returns: the lines; whether each limit holds, or any of those that are sold.
    """
    card, (rows, least_mb) = warm.card, memory_breakdown(need)
    told = [f"{card.name} {card.version} ({card.precision}) takes"]
    told += [f"  {name:<44}{size:>7.1f} MB" for name, size in rows.items()]
    told += [f"  {'in all, before the first photo':<44}{least_mb:>7.1f} MB"]
    tiers = [(f"{limit:g} MB", limit) for limit in limits_mb]
    tiers = tiers or [(f"{mb} MB ({name})", mb) for name, mb in TIERS]
    fits = [compute_capacity(int(least_mb * MB), card.side_px, mb, max_pixels) for _, mb in tiers]
    for (name, _), found in zip(tiers, fits, strict=True):
        told += [f"{name}: {_describe_capacity(found)}"]
    return told, (all if limits_mb else any)(found.free_mb >= 0 for found in fits)


def _describe_capacity(found: Capacity) -> str:
    if found.free_mb < 0:
        return f"does not hold; it is {-found.free_mb:.1f} MB short"
    if not found.slots:
        return f"holds, but no photo of 12 MP fits into the {found.free_mb:.1f} MB left"
    largest = "; ".join(f"{kind} {mp:g}" for kind, mp in found.largest_mp.items())
    room = f"holds; the {found.free_mb:.1f} MB left take {found.slots} photos of 12 MP at once"
    return f"{room}\n  largest photo, in MP: {largest}"

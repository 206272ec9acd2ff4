"""`macule plan`: the memory that a model needs, and what fits a given limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from macule.inference import decoding, native_stderr, runtime
from macule.inference.decoding import cost
from macule.inference.decoding.formats import jpeg
from macule.inference.runtime.loading import LoadedModel
from macule.memory import admission, allocator, processes
from macule.settings import ModelLocation

MB = 2**20
# Added to the bare process that is measured here: gunicorn's arbiter, HTTP, threads, and code that
# must stay in memory. The default model uses 22 MB of private memory in a bare process. It works
# with a limit of 60 MB and fails at 56 MB (`macule fit`, docs/memory.md).
SERVICE_BYTES = 31 * MB
# Added to the bare process for a worker without a cgroup: macule cannot see which pages the kernel
# could reclaim, so admission counts file pages too. The bare process has 41 MB, and 68 MB is the
# smallest MEMORY_LIMIT_MB that serves one photo after another (docs/memory.md).
WORKER_BYTES = 24 * MB
PHOTO = ("JPEG", 4032, 3024)  # a photo from a phone
# Common instance sizes, in MB.
TIERS = (
    ("Cloud Run functions, Lambda: smallest", 128),
    ("Cloud Run functions: second", 256),
    ("Render free and starter, Cloud Run functions: third", 512),
)


class Footprint(NamedTuple):
    """Memory of a bare process after its first prediction, in bytes."""

    python: int
    runtime: int
    model: int
    private: int  # the part of the sum that is not backed by files

    @property
    def service_bytes(self) -> int:
        """Smallest limit in bytes for the service, without any photo."""
        return self.private + SERVICE_BYTES + admission.RESERVE_BYTES

    @property
    def worker_bytes(self) -> int:
        """Smallest MEMORY_LIMIT_MB of a worker in bytes; the kernel does not enforce this limit."""
        total = self.python + self.runtime + self.model
        return total + WORKER_BYTES + admission.RESERVE_BYTES


class Capacity(NamedTuple):
    """What fits into a memory limit; `slots` is the number of concurrent phone photos."""

    limit_mb: float
    free_mb: float
    slots: int
    largest_mp: dict[str, float]


def measure(where: ModelLocation) -> tuple[Footprint, LoadedModel]:
    """Load a model in this process, run it once, and measure the memory.

    Raises: ModelUnavailable, BadCard.
    """
    allocator.configure()
    before = processes.resident_bytes()
    with native_stderr.filtered():
        warm = runtime.get_or_load(where)
    runtime.run_blank(warm)
    grown = warm.grown
    footprint = Footprint(
        before,
        grown["import"],
        grown["fetch"] + grown["load"] + grown["first"],
        processes.private_bytes(),
    )
    return footprint, warm


def compute_capacity(
    base_bytes: int, side_px: int | tuple[int, int], limit_mb: float, max_pixels: int
) -> Capacity:
    """Compute what fits into *limit_mb* in addition to *base_bytes*."""
    free = int(limit_mb * MB) - base_bytes
    header = decoding.Header(*PHOTO, "RGB", 1, 0.0, False, jpeg.SCALES)
    slots = max(0, free // cost.estimate_bytes(header, side_px))
    return Capacity(limit_mb, free / MB, slots, cost.largest_mp(free, side_px, max_pixels))


def memory_breakdown(footprint: Footprint) -> tuple[dict[str, float], float]:
    """Return the memory of the service by component, and the sum, in MB.

    The components are rounded before the sum, so that the printed lines add up.
    """
    total = footprint.python + footprint.runtime + footprint.model
    sizes = {
        "Python and Pillow": footprint.python,
        "runtime": footprint.runtime,
        "model: weights and arena": footprint.model,
        "file pages that the kernel can reclaim": footprint.private - total,
        "server": SERVICE_BYTES,
        "reserve for sockets and responses": admission.RESERVE_BYTES,
    }
    tenths = {name: round(10 * size / MB) for name, size in sizes.items()}
    return {name: count / 10 for name, count in tenths.items()}, sum(tenths.values()) / 10


def report(
    footprint: Footprint, warm: LoadedModel, limits_mb: Sequence[float], max_pixels: int
) -> tuple[list[str], bool]:
    """Format the memory breakdown, and what fits each limit; default: common instance sizes.

    Returns: the lines; whether all limits fit or, without *limits_mb*, any of the common sizes.
    """
    card, (rows, total_mb) = warm.card, memory_breakdown(footprint)
    lines = [f"{card.name} {card.version} ({card.precision}) needs"]
    lines += [f"  {name:<44}{size:>7.1f} MB" for name, size in rows.items()]
    lines += [f"  {'total, before the first photo':<44}{total_mb:>7.1f} MB"]
    tiers = [(f"{limit:g} MB", limit) for limit in limits_mb]
    tiers = tiers or [(f"{mb} MB ({name})", mb) for name, mb in TIERS]
    needed = int(total_mb * MB)
    capacities = [compute_capacity(needed, card.side_px, mb, max_pixels) for _, mb in tiers]
    for (name, _), capacity in zip(tiers, capacities, strict=True):
        lines += [f"{name}: {_describe_capacity(capacity)}"]
    return lines, (all if limits_mb else any)(capacity.free_mb >= 0 for capacity in capacities)


def _describe_capacity(capacity: Capacity) -> str:
    if capacity.free_mb < 0:
        return f"does not fit: {-capacity.free_mb:.1f} MB are missing"
    if not capacity.slots:
        return f"fits, but {capacity.free_mb:.1f} MB are free: too little for a 12 MP photo"
    largest = "; ".join(f"{kind} {mp:g}" for kind, mp in capacity.largest_mp.items())
    text = f"fits; {capacity.free_mb:.1f} MB are free: {capacity.slots} concurrent 12 MP photos"
    return f"{text}\n  largest photo, in MP: {largest}"

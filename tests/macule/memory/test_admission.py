"""Estimated memory, and admission."""

import lzma
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from macule.caching.answers import MemoryCache
from macule.errors import Busy, CannotFit
from macule.inference import decoding
from macule.inference.decoding import cost
from macule.inference.decoding.cost import estimate_bytes
from macule.memory.admission import BASELINE_WINDOW_S, RESERVE_BYTES, Admission
from macule.memory.degradation import DegradationLevels
from support import tiff_files
from support.images import photo, saved, skin

MB = 2**20


def priced(body: bytes) -> float:
    return estimate_bytes(decoding.inspect(body, 10**9), 224) / MB


def test_expensive_images_have_higher_estimates() -> None:
    """A baseline JPEG, a lossy WebP and a PNG are cheap; the others cost more in this order."""
    drawn = skin(2000, 1500)
    costs = [
        priced(saved(drawn, "JPEG")),
        priced(saved(drawn, "WEBP", method=0)),
        priced(saved(drawn, "JPEG", progressive=True)),
        priced(saved(drawn, "BMP")),
        priced(saved(drawn, "WEBP", method=0, lossless=True)),
        priced(saved(drawn, "AVIF", speed=10)),
    ]
    assert priced(saved(drawn, "PNG", compress_level=1)) == pytest.approx(costs[1], abs=0.1)

    assert costs == sorted(costs)
    assert costs[0] < 4
    assert costs[1] < 10


# How each file is saved, and the least pixels at which its cost is visible.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("RGB", {}),
    "JPEG progressive": ("RGB", {"progressive": True}),
    "JPEG progressive 4:4:4": ("RGB", {"progressive": True, "subsampling": 0}),
    "JPEG CMYK": ("CMYK", {}),
    "PNG": ("RGB", {"compress_level": 1}),
    "PNG RGBA": ("RGBA", {"compress_level": 1}),
    "PNG palette": ("P", {"compress_level": 1}),
    "GIF": ("P", {}),
    "BMP": ("RGB", {}),
    "TIFF": ("RGB", {}),
    "TIFF LZW": ("RGB", {"compression": "tiff_lzw"}),
    "TIFF LZW in one strip": ("RGB", {"compression": "tiff_lzw", "strip_size": 2**31 - 1}),
    "TIFF Zstandard in one strip": ("RGB", {"compression": "zstd", "strip_size": 2**31 - 1}),
    "TIFF JPEG in one strip": ("RGB", {"compression": "jpeg", "strip_size": 2**31 - 1}),
    "WEBP": ("RGB", {"method": 0}),
    "WEBP with alpha": ("RGBA", {"method": 0}),
    "WEBP lossless": ("RGB", {"method": 0, "lossless": True, "quality": 0}),
    "AVIF": ("RGB", {"speed": 10}),
    "AVIF in 4:4:4 with alpha": ("RGBA", {"speed": 10, "subsampling": "4:4:4"}),
    "JPEG2000": ("RGB", {"irreversible": True, "quality_layers": [20]}),
    "JPEG2000 without levels": ("RGB", {"num_resolutions": 1}),
    "HEIF": ("RGB", {"quality": 50}),
    "HEIF in 4:4:4": ("RGB", {"quality": 50, "chroma": 444}),
}
PEAK = """
import sys
from macule.inference import decoding
from macule.memory import allocator
allocator.configure()
def kilobytes(key): return next(int(l.split()[1]) for l in open('/proc/self/status') if key in l)
small, large = (open(path, 'rb').read() for path in sys.argv[1:])
decoding.inspect(small, 10**9); decoding.decode(small, 224, 'squash')
open('/proc/self/clear_refs', 'w').write('5'); before = kilobytes('VmRSS')
decoding.inspect(large, 10**9); decoding.decode(large, 224, 'squash')
print((kilobytes('VmHWM') - before) / 1024)
"""


def peak_mb(small: bytes, large: bytes, folder: Path) -> float:
    """Measure what decoding *large* adds in a fresh process that has decoded *small*."""
    (folder / "large").write_bytes(large)
    (folder / "small").write_bytes(small)
    line = [sys.executable, "-c", PEAK, folder / "small", folder / "large"]
    return float(subprocess.check_output(line))


@pytest.mark.memory
@pytest.mark.parametrize("kind", KINDS)
def test_estimates_match_the_measured_memory(kind: str, tmp_path: Path) -> None:
    """The peak is never above the estimate, nor the estimate above twice the peak plus 6 MB.

    The 6 MB are for strips and row buffers, which a small file does not fill.
    """
    mode, options = KINDS[kind]
    pillow_heif.register_heif_opener()
    small, large = (
        saved(skin(*size).convert(mode), kind.split()[0], **options)
        for size in ((500, 400), (3000, 2250))
    )

    taken_mb = peak_mb(small, large, tmp_path)

    assert taken_mb <= priced(large) <= 2 * taken_mb + 6


def tile_beyond_its_image() -> bytes:
    return tiff_files.in_a_tile(16, 16, 4000, zlib.compress(bytes(4000 * 4000 * 3)))


def lzma_strip() -> bytes:
    """Compress a strip with a dictionary as large as libtiff's, ten times as fast."""
    fast = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 32 * MB}]
    strip = lzma.compress(skin(3000, 2250).tobytes(), filters=fast)
    return tiff_files.in_strips(3000, 2250, [strip], tiff_files.LZMA)


def progressive_strips(count: int) -> bytes:
    drawn, rows = skin(3000, 2250), 2250 // count
    strips = [drawn.crop((0, y, 3000, y + rows)) for y in range(0, 2250, rows)]
    files = [saved(strip, "JPEG", progressive=True, subsampling=0) for strip in strips]
    return tiff_files.in_strips(3000, 2250, files, tiff_files.JPEG)


@pytest.mark.memory
@pytest.mark.parametrize(
    "write",
    [
        tile_beyond_its_image,
        lzma_strip,
        partial(progressive_strips, 1),
        partial(progressive_strips, 2),
    ],
    ids=["tile", "LZMA", "strip", "strips"],
)
def test_a_tiff_is_estimated_by_its_strips_and_tiles(
    write: Callable[[], bytes], tmp_path: Path
) -> None:
    """A tile may exceed its image, and a strip may need all coefficients of a JPEG."""
    file = write()

    taken_mb = peak_mb(saved(skin(500, 400), "TIFF", compression="tiff_lzw"), file, tmp_path)

    assert 30 < taken_mb <= priced(file) <= 2 * taken_mb + 6


def test_a_png_of_one_long_row_is_estimated_by_the_row() -> None:
    """A strip has at least one row, so a million by one pixels need a strip of that size."""
    header = decoding.Header("PNG", 10**8, 1, "RGBA", 1, 0.0, True)

    assert estimate_bytes(header, 224) > 10**9


def test_a_long_strip_is_not_estimated_as_reduced() -> None:
    """libjpeg reduces only images that are large on both sides."""
    assert priced(photo(12000, 230)) > 10


def test_an_impossible_image_is_rejected_with_figures() -> None:
    """If the image cannot fit even with all memory free, it gets 507 and the figures."""
    admission = Admission(100 * MB, lambda: 60 * MB)

    with pytest.raises(CannotFit) as caught, admission.reserve(50 * MB, timeout_s=60):
        pass

    assert caught.value.figures == {"estimated_peak_mb": 50.0, "free_mb": 37.0, "limit_mb": 100.0}


def test_an_image_that_fits_later_gets_no_507() -> None:
    """507 compares with the lowest use of the service; memory in use above that gives 503."""
    used = [20 * MB]
    admission = Admission(100 * MB, lambda: used[0])
    with admission.reserve(MB, 0):
        used[0] = 60 * MB

    with pytest.raises(Busy), admission.reserve(50 * MB, timeout_s=0):
        pass
    with pytest.raises(CannotFit) as caught, admission.reserve(80 * MB, timeout_s=0):
        pass
    assert caught.value.figures["free_mb"] == 77.0
    admission.reset_baseline()
    with pytest.raises(CannotFit), admission.reserve(50 * MB, timeout_s=0):
        pass


def test_the_lowest_use_is_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest use of more than two minutes ago does not count."""
    used, clock = [20 * MB], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    admission = Admission(100 * MB, lambda: used[0])
    with admission.reserve(MB, 0):
        used[0] = 60 * MB

    for _ in range(2):
        clock[0] += BASELINE_WINDOW_S + 1
        with admission.reserve(MB, 0):
            pass

    with pytest.raises(CannotFit), admission.reserve(50 * MB, timeout_s=0):
        pass


def test_an_image_that_does_not_fit_now_waits() -> None:
    """A second large image starts when the first has ended."""
    admission = Admission(100 * MB + RESERVE_BYTES, lambda: 0)
    events = []

    def second() -> None:
        with admission.reserve(60 * MB, timeout_s=30):
            events.append("second begins")

    with admission.reserve(60 * MB, timeout_s=0):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
        events.append("first ends")
    thread.join()

    assert events == ["first ends", "second begins"]
    assert (admission.held_bytes, admission.admitted) == (0, 0)


def test_the_wait_is_bounded() -> None:
    """After the time-out the request gets 503, with the same figures."""
    admission = Admission(100 * MB, lambda: 0)

    with admission.reserve(60 * MB, 0), pytest.raises(Busy), admission.reserve(60 * MB, 0.01):
        pass

    assert admission.held_bytes == 0


def test_memory_is_released_when_decoding_fails() -> None:
    """A broken image leaves nothing reserved."""
    admission = Admission(100 * MB, lambda: 0)

    with pytest.raises(ValueError, match="broken"), admission.reserve(10 * MB, 0):
        raise ValueError("broken")

    assert admission.held_bytes == 0


def test_the_largest_photos_just_fit() -> None:
    """The named photos fit and slightly larger ones do not; the pixel limit caps cheap ones."""
    found = cost.largest_mp(40 * MB, 256, 120_000_000)

    assert found["JPEG"] == found["PNG"] == found["WebP"] == pytest.approx(120, abs=0.1)
    for name in ("JPEG, progressive", "WebP, lossless", "HEIC", "BMP"):
        kind, held_bytes, stripped, scales = cost.KINDS[name]
        side = (found[name] * 1e6 / 12) ** 0.5
        costs = [
            estimate_bytes(
                decoding.Header(
                    *(kind, int(4 * n), int(3 * n), "RGB", 1, held_bytes, stripped, scales)
                ),
                256,
            )
            for n in (side * 0.99, side * 1.03)
        ]
        assert costs[0] <= 40 * MB < costs[1], name


def test_nothing_fits_without_free_memory() -> None:
    """Without free memory no photo size is named."""
    assert set(cost.largest_mp(0, 256, 10**8).values()) == {0.0}


def test_images_beyond_the_slots_wait() -> None:
    """With all slots taken another image waits, for a limited time."""
    admission = Admission(100 * MB, lambda: 0, slots=1)
    end = threading.Event()
    first = threading.Thread(target=admission.run_in_slot, args=(end.wait, 30))
    first.start()
    while admission.waiting or not admission.admitted:
        time.sleep(0.001)

    with pytest.raises(Busy):
        admission.run_in_slot(lambda: 1, 0.01)
    end.set()
    first.join()

    assert admission.run_in_slot(lambda: 2, 30) == 2
    assert (admission.admitted, admission.waiting) == (0, 0)


def test_the_queue_is_limited() -> None:
    """A request above the limit gets 503 at once, not after the time-out."""
    admission = Admission(100 * MB, lambda: 0, slots=1, max_waiting=0)
    end = threading.Event()
    first = threading.Thread(target=admission.run_in_slot, args=(end.wait, 30))
    first.start()
    while admission.waiting or not admission.admitted:
        time.sleep(0.001)

    began = time.monotonic()
    with pytest.raises(Busy) as caught:
        admission.run_in_slot(lambda: 1, 30)
    end.set()
    first.join()

    assert time.monotonic() - began < 5
    assert caught.value.figures == {"slots": 1, "waiting": 0}


def test_many_requests_share_the_slots() -> None:
    """Fifty requests at once through two slots all succeed, on two threads."""
    admission = Admission(100 * MB, lambda: 0, slots=2)
    seen = []

    def one() -> None:
        seen.append(threading.current_thread().name)
        time.sleep(0.001)

    threads = [threading.Thread(target=admission.run_in_slot, args=(one, 30)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 50
    assert len(set(seen)) == 2


def test_exceptions_of_a_job_are_raised() -> None:
    """An exception in a slot reaches the caller and frees the slot."""
    admission = Admission(100 * MB, lambda: 0, slots=1)

    def broken() -> None:
        raise CannotFit("no")

    with pytest.raises(CannotFit):
        admission.run_in_slot(broken, 1)
    assert admission.run_in_slot(lambda: 1, 1) == 1


def test_low_memory_leaves_one_slot() -> None:
    """A degradation level with one slot admits no second image."""
    admission = Admission(200 * MB, lambda: 188 * MB, slots=4)

    with admission.reserve(MB, 0), pytest.raises(Busy), admission.reserve(MB, 0.01):
        pass


def test_a_small_image_passes_a_waiting_large_one() -> None:
    """While a large image waits for memory, a small one that fits runs."""
    admission = Admission(100 * MB + RESERVE_BYTES, lambda: 0)
    done = []

    def large() -> None:
        with admission.reserve(80 * MB, 30):
            done.append("large")

    with admission.reserve(40 * MB, 0):
        thread = threading.Thread(target=large)
        thread.start()
        while not admission.waiting:
            time.sleep(0.001)
        with admission.reserve(10 * MB, 0):
            done.append("small")
    thread.join()

    assert done == ["small", "large"]


@pytest.mark.parametrize(
    ("used_mb", "cache", "overlays", "slots"),
    [
        (50, True, True, None),
        (86, False, True, None),
        (90, False, False, None),
        (94, False, False, 1),
    ],
)
def test_degradation_follows_memory(
    used_mb: int, cache: bool, overlays: bool, slots: int | None
) -> None:
    """First the cache is disabled, then overlays, then concurrent images."""
    with Admission(200 * MB, lambda: 2 * used_mb * MB).reserve(MB, 0) as level:
        assert (level.cache, level.overlays, level.slots) == (cache, overlays, slots)


def test_the_cache_is_emptied_before_an_image_waits() -> None:
    """At the first level the cache is empty and disabled; an image that does not fit empties it."""
    used = [50 * MB]
    kept = MemoryCache(MB, 60)
    admission = Admission(100 * MB, lambda: used[0], cache=kept)
    kept.put("a", b"{}")
    with pytest.raises(CannotFit), admission.reserve(60 * MB, 0):
        pass
    emptied = kept.held_bytes

    kept.put("b", b"{}")
    with admission.reserve(MB, 0):
        filled = kept.held_bytes
    used[0] = 86 * MB
    with admission.reserve(MB, 0):
        kept.put("c", b"{}")

    assert (emptied, filled > 0, kept.held_bytes) == (0, True, 0)


def test_at_the_last_level_everything_is_rejected() -> None:
    """At 98 % of the limit every request gets 503 with figures, even if its image would fit."""
    admission = Admission(1000 * MB, lambda: 985 * MB)

    with pytest.raises(Busy, match="Memory has run short") as caught, admission.reserve(MB, 30):
        pass

    assert caught.value.figures["limit_mb"] == 1000


def test_each_level_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A change down is a warning, a change up is logged too, no change is not."""
    levels = DegradationLevels()
    caplog.set_level("INFO", "macule")

    for share in (0.5, 0.86, 0.9, 0.91, 0.95, 0.5, 0.5):
        levels.update(share)

    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "memory at 86 % of the limit: no cache"),
        ("WARNING", "memory at 90 % of the limit: no overlays"),
        ("WARNING", "memory at 95 % of the limit: one image at a time"),
        ("INFO", "memory at 50 % of the limit: everything"),
    ]

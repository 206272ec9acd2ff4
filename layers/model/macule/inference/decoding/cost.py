"""Estimate of the peak memory for decoding an image, from its header alone."""

from __future__ import annotations

from macule.inference.decoding import Header, sides
from macule.inference.decoding.formats import avif, heif, jpeg, webp
from macule.inference.decoding.pixels import READ_STRIP_PIXELS, STRIP_PIXELS

# Bytes per decoded pixel by Pillow mode; other modes take 4. `Header.held_bytes` has the decoder's
# own memory. A test verifies the estimates by measuring real decodes in fresh processes.
MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
DECODER_BYTES = {"JPEG2000": 16}  # 4 per channel
SLACK = 1.06
STRIP_BYTES, READ_STRIP_BYTES = 4, 56  # per pixel of a strip: rows, copies, inflated data
# Kinds of RGB images: Pillow format, held bytes per pixel, whether decoded in strips, scales.
KINDS = {
    "JPEG": ("JPEG", 0.0, False, jpeg.SCALES),
    "JPEG, progressive": ("JPEG", 3.0, False, jpeg.SCALES),
    "PNG": ("PNG", 0.0, True, ()),
    "WebP": ("WEBP", 0.0, True, ()),
    "WebP, lossless": ("WEBP", webp.HELD_LOSSLESS, True, ()),
    "HEIC": ("HEIF", heif.HELD_BYTES, True, ()),
    "AVIF": ("AVIF", avif.HELD_BYTES, False, ()),
    "BMP": ("BMP", 0.0, False, ()),
    "TIFF": ("TIFF", 0.0, False, ()),
}


def estimate_bytes(header: Header, side_px: int | tuple[int, int]) -> int:
    """Estimate the peak bytes of decoding an image, from its header alone."""
    target = sides(side_px)
    drafted = min(header.width, header.height) // max(target)
    by = next((scale for scale in header.scales if drafted >= scale), 1)
    width, height = header.width // by, header.height // by
    across, down = max(1, width // (2 * target[1])), max(1, height // (2 * target[0]))
    small = 3 * (width // across) * (height // down)
    held = int(header.pixels * header.held_bytes * SLACK)
    if header.stripped:
        return held + small + max(READ_STRIP_PIXELS, width * down) * READ_STRIP_BYTES
    pixel_bytes = MODE_BYTES.get(header.mode, 4) + DECODER_BYTES.get(header.format, 0)
    strip = max(STRIP_PIXELS, width * down)
    return held + int(header.pixels / by**2 * pixel_bytes * SLACK) + small + strip * STRIP_BYTES


def largest_mp(free: int, side_px: int | tuple[int, int], max_pixels: int) -> dict[str, float]:
    """Return the largest 4:3 photo of each kind, in MP, for *free* bytes and *max_pixels*."""
    found = {}
    for name, (kind, held_bytes, stripped, scales) in KINDS.items():
        low, high = 0, int((max_pixels / 12) ** 0.5)
        while low < high:  # the greatest n whose photo of 4n x 3n fits
            n = (low + high + 1) // 2
            header = Header(kind, 4 * n, 3 * n, "RGB", 1, held_bytes, stripped, scales)
            low, high = (n, high) if estimate_bytes(header, side_px) <= free else (low, n - 1)
        found[name] = round(12 * low * low / 1e6, 1)
    return found

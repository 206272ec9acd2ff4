"""Robustness: how often an answer changes if the file changes and the lesion does not.

Each changed picture is written as a file again, then decoded and classified as in production.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from sys import maxsize
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import ImageCms
from PIL.Image import Image, Resampling, Transpose
from PIL.ImageFilter import GaussianBlur

from macule.convert.evaluation.pixels import colour
from macule.errors import Macule
from macule.inference import classification, decoding
from macule.inference.decoding import icc
from macule.inference.runtime.loading import LoadedModel

IMAGES = 40
MAX_SIDE_PX = 4000  # larger pictures are reduced first: a bound on time and memory
SMALL_SIDE_PX = 1000  # enlarging a picture beyond this is slow
ENLARGED_EVERY = 4  # so only every fourth image is enlarged beyond it
WHITE_K = 6500
BLUR_SHARE = 0.005  # standard deviation of the blur, of the longest side
DISPLAY_P3 = icc.build_profile(icc.PRIMARIES[12])


class Answer(NamedTuple):
    """The most likely label of a photo, for all decisions, and the decision."""

    label: str
    decision: str


class Change(NamedTuple):
    """One change of a picture; `save` returns the changed file."""

    kind: str
    name: str
    save: Callable[[Image], bytes]


def as_png(picture: Image, profile: bytes | None = None) -> bytes:
    """Write a PNG without compression, which takes a sixth of the time: 0.3 s for 3 MP."""
    return _write(picture, "PNG", compress_level=0, icc_profile=profile)


def as_jpeg(picture: Image, quality: int) -> bytes:
    return _write(picture, "JPEG", quality=quality)


def resized(picture: Image, side_px: int) -> bytes:
    """Scale a picture to a longest side of *side_px*."""
    scale = side_px / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return as_png(picture.resize((width, height), Resampling.BICUBIC))


def turned(picture: Image, turn: Transpose) -> bytes:
    return as_png(picture.transpose(turn))


def balanced(picture: Image, temperature_k: float) -> bytes:
    """Give white the colour of daylight of *temperature_k*, by a gain per channel (von Kries).

    The gains are those of linear light. Source: `colour.daylight`; 6500 K changes nothing.
    """
    gains = colour.daylight(temperature_k) / colour.daylight(WHITE_K)
    linear = colour.to_linear(np.arange(256) / 255)
    curves = [colour.to_encoded(np.minimum(gain * linear, 1)) for gain in gains]
    return as_png(_apply_curves(picture, curves))


def with_gamma(picture: Image, gamma: float) -> bytes:
    """Raise sRGB values of 0 to 1 to the power of *gamma*: above 1 is darker."""
    return as_png(_apply_curves(picture, [(np.arange(256) / 255) ** gamma] * 3))


def blurred(picture: Image) -> bytes:
    return as_png(picture.filter(GaussianBlur(BLUR_SHARE * max(picture.size))))


def in_display_p3(picture: Image) -> bytes:
    """Write the same colours in Display P3, as iPhones do."""
    profile = ImageCms.ImageCmsProfile(BytesIO(DISPLAY_P3))
    converted = ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), profile)
    return as_png(cast(Image, converted), DISPLAY_P3)


QUALITIES = 30, 50, 75, 95
SIDES_PX = {f"{side} px": side for side in (200, 400, SMALL_SIDE_PX, MAX_SIDE_PX)}
TURNS = {"90°": Transpose.ROTATE_90, "180°": Transpose.ROTATE_180, "270°": Transpose.ROTATE_270}
MIRRORS = {"horizontal": Transpose.FLIP_LEFT_RIGHT, "vertical": Transpose.FLIP_TOP_BOTTOM}
SIZE = "longest side"
# Written as a PNG, the pixels stay: what changes then is only how the decoder reduces the picture.
CHANGES = (
    Change("file format", "PNG", as_png),
    *(Change("JPEG quality", str(q), partial(as_jpeg, quality=q)) for q in QUALITIES),
    *(Change(SIZE, name, partial(resized, side_px=px)) for name, px in SIDES_PX.items()),
    *(Change("rotation", name, partial(turned, turn=turn)) for name, turn in TURNS.items()),
    *(Change("mirror", name, partial(turned, turn=turn)) for name, turn in MIRRORS.items()),
    *(
        Change("white balance", f"{by:+d} K", partial(balanced, temperature_k=WHITE_K + by))
        for by in (-500, 500)
    ),
    *(Change("gamma", str(gamma), partial(with_gamma, gamma=gamma)) for gamma in (0.8, 1.25)),
    Change("blur", f"{BLUR_SHARE:.1%} of the side".replace("%", " %"), blurred),
    Change("colour space", "Display P3", in_display_p3),
)


def measure(
    bodies: Iterable[bytes],
    answer: Callable[[bytes], Answer],
    changes: Sequence[Change] = CHANGES,
) -> dict[str, Any]:
    """Compare the answer to each image file with the answers to its changed copies.

    Files that cannot be decoded are left out.
    Returns: the number of `images`; and for each of `changes` and of `kinds` the number of
      comparisons `n`, and the shares `answers_changed` and `decisions_changed`, None without any.
    """
    found: dict[Change, list[tuple[bool, bool]]] = {change: [] for change in changes}
    images = 0
    for body in bodies:
        try:
            picture, before = read(body), answer(body)
        except Macule:
            continue
        for change in applicable(changes, picture, images % ENLARGED_EVERY == 0):
            after = answer(change.save(picture))
            found[change].append((after.label != before.label, after.decision != before.decision))
        images += 1
    kinds: dict[str, list[tuple[bool, bool]]] = {}
    for change, pairs in found.items():
        kinds.setdefault(change.kind, []).extend(pairs)
    return {
        "images": images,
        "kinds": [{"kind": kind} | _shares(pairs) for kind, pairs in kinds.items()],
        "changes": [
            {"kind": change.kind, "change": change.name} | _shares(pairs)
            for change, pairs in found.items()
        ],
    }


def read(body: bytes) -> Image:
    """Decode an image file to an upright sRGB picture of its own size, at most MAX_SIDE_PX.

    Raises: UnsupportedImage, BadImage, SlowImage, CannotFit.
    """
    width, height = decoding.inspect(body, maxsize).upright_size
    scale = min(1.0, MAX_SIDE_PX / max(width, height))
    frame = max(1, round(height * scale)), max(1, round(width * scale))
    return decoding.decode(body, frame, "squash").picture


def applicable(changes: Sequence[Change], picture: Image, enlarge: bool) -> Iterator[Change]:
    """Yield *changes* without the size of the picture, and without large ones if not *enlarge*."""
    side_px = max(picture.size)
    for change in changes:
        wanted = SIDES_PX.get(change.name, 0) if change.kind == SIZE else 0
        if wanted == side_px or (wanted > max(side_px, SMALL_SIDE_PX) and not enlarge):
            continue
        yield change


def classify(model: LoadedModel, body: bytes) -> Answer:
    """Answer for an image file as the service does.

    Raises: UnsupportedImage, BadImage, SlowImage, CannotFit.
    """
    card = model.card
    decoded = decoding.decode(body, decoding.sides(card.side_px), card.resize)
    found = classification.classify(model, decoded.picture)
    return Answer(found.predictions[0].label, found.verdict.decision)


def _apply_curves(picture: Image, curves: Sequence[colour.Floats]) -> Image:
    """Map the values of each channel by a curve (256,) of 0 to 1."""
    return picture.point(np.rint(255 * np.concatenate(curves)).astype(int).tolist())


def _shares(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float | None]:
    answers, decisions = np.mean(pairs, axis=0).tolist() if pairs else (None, None)
    return {"n": len(pairs), "answers_changed": answers, "decisions_changed": decisions}


def _write(picture: Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()

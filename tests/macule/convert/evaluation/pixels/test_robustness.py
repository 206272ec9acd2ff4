"""Robustness: changed copies of a photo, and the shares of changed answers."""

from collections.abc import Callable
from hashlib import sha256
from io import BytesIO

import numpy as np
import pytest
from macule.convert.evaluation.pixels import robustness
from macule.convert.evaluation.pixels.robustness import CHANGES, SIDES_PX, SIZE, Answer, Change
from macule.inference import decoding
from PIL import Image
from support.images import photo, saved, skin

SIDE_PX = 64
BODIES = [photo(320, 240), photo(240, 240)]
BY_KIND: dict[str, list[Change]] = {}
for change in CHANGES:
    BY_KIND.setdefault(change.kind, []).append(change)


def decode(body: bytes) -> np.ndarray:
    return np.asarray(decoding.decode(body, SIDE_PX, "squash").picture)


def by_mean_colour(body: bytes) -> Answer:
    """Answer by the mean colour alone: light, reddish skin or anything else."""
    red, _, blue = decode(body).mean(axis=(0, 1))
    return Answer("skin" if red > blue + 20 else "other", "classified")


def by_every_pixel(body: bytes) -> Answer:
    """Answer differently for any two different inputs of the model."""
    digest = sha256(decode(body).tobytes()).hexdigest()
    return Answer(digest, digest)


def only(kind: str, answer: Callable[[bytes], Answer]) -> list[dict[str, float]]:
    return robustness.measure(BODIES, answer, BY_KIND[kind])["changes"]


@pytest.mark.parametrize(
    "kind", ["rotation", "mirror", "file format", "JPEG quality", "colour space", "blur"]
)
def test_an_answer_by_mean_colour_is_stable(kind: str) -> None:
    """Changes that keep the mean colour change neither its answer nor its decision."""
    rows = only(kind, by_mean_colour)

    assert [row["n"] for row in rows] == [len(BODIES)] * len(BY_KIND[kind])
    assert {row["answers_changed"] for row in rows} == {0.0}
    assert {row["decisions_changed"] for row in rows} == {0.0}


def test_an_identical_copy_changes_nothing() -> None:
    """The PNG copy of a PNG has the same answer, even if every pixel counts."""
    bodies = [saved(skin(320, 240), "PNG"), saved(skin(240, 240), "PNG")]

    found = robustness.measure(bodies, by_every_pixel, BY_KIND["file format"])

    assert found["images"] == 2
    assert (found["kinds"][0]["n"], found["kinds"][0]["answers_changed"]) == (2, 0.0)


@pytest.mark.parametrize("kind", sorted(BY_KIND.keys() - {"file format", "colour space"}))
def test_every_change_reaches_the_model(kind: str) -> None:
    """If every pixel counts, no copy gets the answer of the original."""
    rows = only(kind, by_every_pixel)

    assert {row["answers_changed"] for row in rows if row["n"]} == {1.0}
    assert {row["decisions_changed"] for row in rows if row["n"]} == {1.0}


def test_shares_are_counted_by_kind() -> None:
    """A kind has all copies of its changes; the label and the decision count separately."""
    same, flip = robustness.as_png, lambda picture: saved(Image.new("RGB", picture.size), "PNG")
    changes = [Change("one", "same", same), Change("one", "black", flip)]

    found = robustness.measure(BODIES, by_mean_colour, changes)

    assert [row["answers_changed"] for row in found["changes"]] == [0.0, 1.0]
    assert found["kinds"] == [
        {"kind": "one", "n": 4, "answers_changed": 0.5, "decisions_changed": 0.0}
    ]


def test_display_p3_is_converted_back() -> None:
    """The Display P3 twin has other pixel values, and the decoder returns the first ones."""
    picture = skin(SIDE_PX, SIDE_PX)
    copy = robustness.in_display_p3(picture)
    original = np.asarray(picture).astype(int)

    assert np.abs(decode(copy).astype(int) - original).max() <= 2
    assert (np.asarray(Image.open(BytesIO(copy))) != original).any()


def test_white_balance_moves_gray() -> None:
    """Daylight of a lower temperature is more red and less blue; 6500 K changes nothing."""
    gray = Image.new("RGB", (8, 8), (128, 128, 128))

    def mean(temperature_k: float) -> list[float]:
        return decode(robustness.balanced(gray, temperature_k)).mean(axis=(0, 1)).tolist()

    warm, cold = mean(6000), mean(7000)
    assert warm[0] > 128 > warm[2]
    assert cold[0] < 128 < cold[2]
    assert mean(robustness.WHITE_K) == [128, 128, 128]


def test_gamma_keeps_black_and_white() -> None:
    """Above 1 gray becomes darker; the ends stay."""
    picture = Image.fromarray(np.array([[0, 128, 255]] * 3, np.uint8)).convert("RGB")

    darker, lighter = (
        robustness.read(robustness.with_gamma(picture, gamma)).getpixel((1, 0))[0]
        for gamma in (1.25, 0.8)
    )

    assert darker < 128 < lighter
    for gamma in (1.25, 0.8):
        changed = robustness.read(robustness.with_gamma(picture, gamma))
        assert [changed.getpixel((x, 0))[0] for x in (0, 2)] == [0, 255]


def test_a_size_that_the_picture_has_is_left_out() -> None:
    """Sizes scale the longest side; the picture's own size is no change."""
    picture = skin(400, 300)

    chosen = [c.name for c in robustness.applicable(BY_KIND[SIZE], picture, True)]

    assert chosen == [name for name, side_px in SIDES_PX.items() if side_px != 400]
    assert robustness.read(robustness.resized(picture, 200)).size == (200, 150)


def test_few_images_are_enlarged_far() -> None:
    """Most small pictures have no copy of 4000 px, because it takes seconds."""
    chosen = [c.name for c in robustness.applicable(BY_KIND[SIZE], skin(300, 200), False)]

    assert "4000 px" not in chosen
    assert "1000 px" in chosen


def test_broken_files_are_left_out() -> None:
    """A file that cannot be decoded is not counted, and a change without copies has no share."""
    found = robustness.measure([b"no image"], by_mean_colour)

    assert found["images"] == 0
    assert {row["n"] for row in found["changes"]} == {0}
    assert {row["answers_changed"] for row in found["kinds"]} == {None}


def test_photos_are_upright() -> None:
    """The EXIF orientation is applied before a copy is made."""
    exif = Image.Exif()
    exif[0x0112] = 6
    body = photo(320, 240, exif=exif)

    assert robustness.read(body).size == (240, 320)

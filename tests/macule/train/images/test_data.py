"""Training images from a table: centre squares, near-duplicates, symmetries."""

from pathlib import Path

import numpy as np
from macule.convert.evaluation import dataset
from macule.train.images import data, duplicates
from PIL import Image
from support.images import skin

SIDE_PX = 64


def test_centre_squares_become_frames(tmp_path: Path) -> None:
    """A lesion with only its centre square is found, and mirrored to a whole frame."""
    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    Image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / "b.png")
    rows = ["lesion,label,split,squashed,cropped", "1,round,train,a.png,", "2,square,extra,,b.png"]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")

    photos = dataset.list_photos(tmp_path, "squashed")
    centred = data.cropped_photos(tmp_path, photos)
    labels = ["round", "square"]
    decoded = data.decode_photos(centred, labels, SIDE_PX, frozenset(p.path for p in centred))

    assert [photo.path.name for photo in centred] == ["b.png"]
    assert decoded.pixels.shape == (1, SIDE_PX, SIDE_PX, 3)
    assert (decoded.pixels == (200, 10, 10)).all()


def test_copies_of_a_photo_are_a_group() -> None:
    """A brighter, blurred, rotated or mirrored copy is in the group of the original."""
    random = np.random.default_rng(1)
    coarse = random.integers(0, 200, (4, 5, 5, 3), np.uint8)
    photos = [Image.fromarray(each).resize((96, 96), Image.Resampling.BICUBIC) for each in coarse]
    original = photos[0]
    copies = [
        original.point(lambda level: level + 20),
        original.resize((48, 48)).resize((96, 96)),
        original.transpose(Image.Transpose.ROTATE_90),
        original.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    ]

    groups = duplicates.group(np.stack([np.asarray(photo) for photo in [*photos, *copies]]))

    assert groups.tolist() == [0, 1, 2, 3, 0, 0, 0, 0]


def test_symmetries_are_distinct_and_start_upright() -> None:
    """A photo has eight symmetries; the first one is the photo."""
    photo = np.array(skin(32, 32))
    photo[0, :20] = 0

    turned = list(duplicates.symmetries(photo))

    assert (turned[0] == photo).all()
    assert len({image.tobytes() for image in turned}) == duplicates.SYMMETRIES

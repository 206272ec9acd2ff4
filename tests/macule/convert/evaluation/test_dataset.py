"""Folders of images for calibration and evaluation."""

import io
from pathlib import Path

import pytest
from macule.convert.errors import BadInput
from macule.convert.evaluation import dataset
from macule.convert.progress import Progress
from support.images import photo

QUIET = Progress(1, io.StringIO())


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(80, 60))
    return folder


def decode(photos: list[dataset.Photo], labels: list[str]) -> dataset.Images:
    return dataset.decode_photos(photos, labels, (16, 24), "squash", QUIET, "decoding")


def test_a_folder_for_each_class_is_labelled(tmp_path: Path) -> None:
    """Folder names are labels; classes are numbered in the order of the given labels."""
    photos = dataset.list_photos(fill(tmp_path, "mel/1.jpg", "mel/deep/2.JPG", "nv/3.png"))
    decoded = decode(photos, ["nv", "mel"])

    assert decoded.pixels.shape == (3, 16, 24, 3)
    assert decoded.truth is not None
    assert decoded.truth.tolist() == [1, 1, 0]


def test_a_table_gives_labels_and_splits(tmp_path: Path) -> None:
    """labels.csv names files, labels and splits; rows without a file are skipped."""
    fill(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "labels.csv").write_text(
        "label,split,image\nmel,train,a.jpg\nnv,val,b.jpg\nnv,val,\n"
    )
    photos = dataset.list_photos(tmp_path)

    assert [photo.label for photo in photos] == ["mel", "nv"]
    assert dataset.sample_photos(photos, ["val"], 10) == [photos[1]]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    """Images without folders are used for calibration, without true labels."""
    assert decode(dataset.list_photos(fill(tmp_path, "a.jpg", "b.jpg")), ["x", "y"]).truth is None


def test_a_broken_image_is_counted_not_fatal(tmp_path: Path) -> None:
    """One undecodable file does not stop the others."""
    fill(tmp_path, "mel/1.jpg", "nv/2.jpg")
    (tmp_path / "mel/3.jpg").write_text("no image")
    decoded = decode(dataset.list_photos(tmp_path), ["mel", "nv"])

    assert (len(decoded.pixels), decoded.broken) == (2, 1)


def test_unusable_data_is_rejected(tmp_path: Path) -> None:
    """A missing folder, no usable image, an unknown label and missing columns are reported."""
    with pytest.raises(BadInput, match="not a folder"):
        dataset.list_photos(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="contains no images"):
        dataset.list_photos(tmp_path)
    fill(tmp_path, "naevus/1.jpg")
    with pytest.raises(BadInput, match="labels of the images are naevus, those of the model nv"):
        decode(dataset.list_photos(tmp_path), ["nv", "mel"])
    (tmp_path / "labels.csv").write_text("name,kind\n")
    with pytest.raises(BadInput, match="needs `label`"):
        dataset.list_photos(tmp_path)


def test_the_sample_is_repeatable(tmp_path: Path) -> None:
    """The same folder gives the same sample of images."""
    photos = dataset.list_photos(fill(tmp_path, *(f"{n}.jpg" for n in range(9))))

    assert dataset.sample_photos(photos, [], 4) == dataset.sample_photos(photos, [], 4)
    assert dataset.synthetic_images((20, 30)).shape == (32, 20, 30, 3)
    assert (dataset.synthetic_images((20, 30)) == dataset.synthetic_images((20, 30))).all()

"""The list of fitted images: the same bytes are found, others are not."""

from pathlib import Path

from macule.convert.evaluation import fitted


def pictures(folder: Path, count: int) -> list[Path]:
    """Write *count* different files."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(b"image %d" % number)
    return sorted(folder.iterdir())


def test_fitted_images_are_counted_by_content(tmp_path: Path) -> None:
    """A copy under another name is found; a changed file is not."""
    images = pictures(tmp_path / "images", 5)
    fitted.write(tmp_path, images[:3])
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[0].read_bytes())
    changed = tmp_path / "changed.png"
    changed.write_bytes(images[1].read_bytes() + b"!")

    assert fitted.count(tmp_path, images) == 3
    assert fitted.count(tmp_path, [copy, changed]) == 1


def test_the_list_is_sorted_and_free_of_repeats(tmp_path: Path) -> None:
    """The same images in any order give the same file, one line for each content."""
    images = pictures(tmp_path / "images", 4)
    fitted.write(tmp_path, [*images, images[0]])
    lines = (tmp_path / fitted.FILE).read_text().splitlines()
    fitted.write(tmp_path, images[::-1])

    assert lines == sorted({fitted.digest(path) for path in images})
    assert (tmp_path / fitted.FILE).read_text().splitlines() == lines


def test_a_model_without_a_list_knows_no_image(tmp_path: Path) -> None:
    """Folders of other origin have no list; nothing is counted."""
    assert fitted.count(tmp_path, pictures(tmp_path / "images", 2)) == 0

"""Labels and names from the usual files."""

import json
from pathlib import Path

import pytest
from macule.convert.errors import BadInput
from macule.convert.source import labelling


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model.h5"


@pytest.mark.parametrize(
    "text",
    [
        "nevus\nmelanoma\nkeratosis\n",
        "0 nevus\n1 melanoma\n2 keratosis",
        '["nevus", "melanoma", "keratosis"]',
        '{"melanoma": 1, "nevus": 0, "keratosis": 2}',
        '{"0": "nevus", "2": "keratosis", "1": "melanoma"}',
        "\ufeffnevus\r\nmelanoma\r\nkeratosis\r\n",
    ],
)
def test_every_common_format_is_read(text: str, model: Path) -> None:
    """Lines, numbered lines, a JSON list and Keras's class_indices give the same labels."""
    file = model.with_name("classes")
    file.write_text(text, encoding="utf-8")

    assert labelling.read_labels(str(file), model, [], 3) == ["nevus", "melanoma", "keratosis"]


def test_a_list_keeps_its_order(model: Path) -> None:
    """Labels on the command line keep the order of the outputs."""
    assert labelling.read_labels("b, a,c", model, [], 3) == ["b", "a", "c"]


def test_teachable_machine_s_labels_are_found(model: Path) -> None:
    """labels.txt beside the model is used if no labels are given."""
    model.with_name("labels.txt").write_text("0 Nốt ruồi\n1 U hắc tố\n")

    assert labelling.read_labels(None, model, [], 2) == ["Nốt ruồi", "U hắc tố"]


@pytest.mark.parametrize(
    ("text", "classes", "expected"),
    [
        (None, 3, "--labels"),
        ("a,b", 3, "2 labels .* for 3 outputs"),
        ("a,b,a", 3, "duplicate"),
        ("a,,c", 3, "Label 2 of 3 is empty"),
        ("", 2, "empty"),
    ],
)
def test_wrong_labels_are_rejected(
    text: str | None, classes: int, expected: str, model: Path
) -> None:
    """Missing, too few, duplicate and empty labels are reported with a fix."""
    with pytest.raises(BadInput, match=expected):
        labelling.read_labels(text, model, [], classes)


def test_folders_are_suggested(model: Path) -> None:
    """Without labels the error lists the images' folders in Keras's order."""
    with pytest.raises(BadInput, match="mel,nv"):
        labelling.read_labels(None, model, ["nv", "mel"], 2)


def test_names_have_languages(tmp_path: Path) -> None:
    """A JSON file has names in several languages; English is required, and complete."""
    file = tmp_path / "names.json"
    file.write_text(json.dumps({"en": ["A", "B"], "vi": ["Một", "Hai"]}), encoding="utf-8")

    assert labelling.read_names(str(file), ["a", "b"])["vi"] == ["Một", "Hai"]
    assert labelling.read_names(None, ["seborrheic_keratosis"]) == {"en": ["seborrheic keratosis"]}
    with pytest.raises(BadInput):
        labelling.read_names("only one", ["a", "b"])


def test_descriptions_and_urgent_labels_are_checked(tmp_path: Path) -> None:
    """Descriptions are one for each label; urgent labels must be labels."""
    file, short = tmp_path / "descriptions.json", tmp_path / "short.json"
    file.write_text(json.dumps({"en": ["A spot, brown.", "B"], "vi": ["Đốm", "B"]}))
    short.write_text(json.dumps({"en": ["A"]}))

    assert labelling.read_descriptions(str(file), ["a", "b"])["vi"] == ["Đốm", "B"]
    assert labelling.read_descriptions(None, ["a", "b"]) == {}
    assert labelling.read_urgent("b", ["a", "b"]) == ["b"]
    assert labelling.read_urgent(None, ["a", "b"]) == []
    with pytest.raises(BadInput, match="2 texts"):
        labelling.read_descriptions(str(short), ["a", "b"])
    with pytest.raises(BadInput, match="not a file"):
        labelling.read_descriptions("A. B.", ["a", "b"])
    with pytest.raises(BadInput, match="'c' is not one of the labels a, b"):
        labelling.read_urgent("c", ["a", "b"])

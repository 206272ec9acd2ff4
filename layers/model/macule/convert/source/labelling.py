"""A model's labels and their names, from a list, a file, or what lies beside the model."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from macule.convert.errors import ConversionError

LABELS_FILE = "labels.txt"  # what Teachable Machine writes next to its export
NUMBERED = re.compile(r"^(\d+)\s+(.+)$")


def read_labels(text: str | None, model: Path, folders: Sequence[str], classes: int) -> list[str]:
    """Find the labels in the order of the outputs.

    Args:
      text: `a,b,c`, or a file: one label a line, a JSON list, or Keras's `class_indices`.
      model: the model's path; without *text*, `labels.txt` beside it counts.
      folders: the class folders of the evaluation images, as a hint in the refusal.

    Raises: Refused where they are missing, empty, double, or not as many as the outputs.
    """
    if text is None and (model.parent / LABELS_FILE).is_file():
        text = str(model.parent / LABELS_FILE)
    if text is None:
        hint = f" The folders of the images are, in Keras's order: {','.join(sorted(folders))}."
        raise ConversionError(
            f"The model has {classes} outputs and nothing says what they mean: give --labels a,b,c "
            "(or a file), in the order of the outputs." + (hint if folders else "")
        )
    found = _from_file(Path(text)) if Path(text).is_file() else _split(text)
    if any(not label for label in found):
        raise ConversionError(
            f"Label {found.index('') + 1} of {len(found)} is empty: name every output."
        )
    double = sorted({label for label in found if found.count(label) > 1})
    if double:
        raise ConversionError(
            f"The label {double[0]!r} is there twice: every output needs its own."
        )
    if len(found) != classes:
        raise ConversionError(
            f"There are {len(found)} labels ({', '.join(found[:8])}) for {classes} outputs: give "
            "exactly as many, in the order of the outputs."
        )
    return found


def read_names(text: str | None, labels: Sequence[str]) -> dict[str, list[str]]:
    """Read names for people: `a,b,c` in English, or JSON {"en": […], "vi": […]} in a file.

    Raises: Refused where there are not as many as labels.
    """
    if text is None:
        return {"en": [label.replace("_", " ").strip() for label in labels]}
    document = _document(text, "--names") if Path(text).is_file() else None
    found = document if isinstance(document, dict) else {"en": document or _split(text)}
    return _by_language(found, labels, "--names")


def read_descriptions(text: str | None, labels: Sequence[str]) -> dict[str, list[str]]:
    """Read one sentence for each label from a JSON file {"en": […], "vi": […]}.

    Raises: Refused where there is no such file, or not as many as labels.
    """
    if text is None:
        return {}
    if not Path(text).is_file():
        raise ConversionError(
            f'--descriptions {text} is not a file: give JSON {{"en": ["…", "…"]}}.'
        )
    document = _document(text, "--descriptions")
    found = document if isinstance(document, dict) else {"en": document}
    return _by_language(found, labels, "--descriptions")


def read_urgent(text: str | None, labels: Sequence[str]) -> list[str]:
    """Read the labels that a doctor should see soon.

    Raises: Refused where one is not a label of the model.
    """
    found = _split(text) if text else []
    for label in found:
        if label not in labels:
            raise ConversionError(
                f"--urgent {label!r} is not one of the labels {', '.join(labels)}."
            )
    return found


def _document(path: str, option: str) -> object:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{option} {path} is not JSON.") from error


def _by_language(
    found: dict[str, object], labels: Sequence[str], option: str
) -> dict[str, list[str]]:
    """Check that each language, English among them, has one text for each label."""
    for language, values in found.items():
        if not isinstance(values, list) or len(values) != len(labels):
            raise ConversionError(
                f"{option} has not {len(labels)} texts in {language!r}, one for each label."
            )
    if "en" not in found:
        raise ConversionError(f'{option} has no English texts: add "en".')
    return {
        language: [str(value) for value in values]
        for language, values in found.items()
        if isinstance(values, list)
    }


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _from_file(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        document = json.loads(text)
    except ValueError:
        lines = [line.strip() for line in text.strip().splitlines()]
        numbered = [NUMBERED.match(line) for line in lines]
        if all(match and int(match[1]) == place for place, match in enumerate(numbered)):
            return [match[2].strip() for match in numbered if match]
        return lines
    if isinstance(document, dict):
        return _from_indices(document, path)
    if not isinstance(document, list):
        raise ConversionError(f"{path.name} holds neither a list of labels nor their indices.")
    return [str(label).strip() for label in document]


def _from_indices(document: dict[str, object], path: Path) -> list[str]:
    """Order {"nevus": 0, …} or {"0": "nevus", …} by the number."""
    numbers = [value for value in document.values() if type(value) is int]
    pairs = (
        {int(str(number)): label for label, number in document.items()}
        if len(numbers) == len(document)
        else {int(key): str(label) for key, label in document.items() if key.isdigit()}
    )
    if sorted(pairs) != list(range(len(document))):
        raise ConversionError(f"{path.name} does not number its labels 0 to {len(document) - 1}.")
    return [pairs[place].strip() for place in sorted(pairs)]

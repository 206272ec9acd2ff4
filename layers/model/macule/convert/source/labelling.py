"""The labels of a model and their names, from an option, a file, or labels.txt of the model."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from macule.convert.errors import BadInput

LABELS_FILE = "labels.txt"  # written by Teachable Machine next to its export
NUMBERED = re.compile(r"^(\d+)\s+(.+)$")


def read_labels(text: str | None, model: Path, folders: Sequence[str], classes: int) -> list[str]:
    """Read the labels in the order of the outputs.

    Args:
      text: `a,b,c`, or a file: one label per line, a JSON list, or `class_indices` of Keras.
      model: the model's path; without *text*, `labels.txt` in its folder is used.
      folders: the class folders of the evaluation images, for the error message.

    Raises: BadInput if they are missing, empty, duplicate, or do not match the outputs.
    """
    if text is None and (model.parent / LABELS_FILE).is_file():
        text = str(model.parent / LABELS_FILE)
    if text is None:
        hint = f" The folders of the images, in the order of Keras: {','.join(sorted(folders))}."
        raise BadInput(
            f"The model has {classes} outputs without labels: give --labels a,b,c "
            "(or a file), in the order of the outputs." + (hint if folders else "")
        )
    found = _from_file(Path(text)) if Path(text).is_file() else _split(text)
    if any(not label for label in found):
        raise BadInput(f"Label {found.index('') + 1} of {len(found)} is empty: name every output.")
    duplicates = sorted({label for label in found if found.count(label) > 1})
    if duplicates:
        raise BadInput(
            f"The label {duplicates[0]!r} is duplicate: every output needs its own label."
        )
    if len(found) != classes:
        raise BadInput(
            f"There are {len(found)} labels ({', '.join(found[:8])}) for {classes} outputs: give "
            "one label per output, in the order of the outputs."
        )
    return found


def read_names(text: str | None, labels: Sequence[str]) -> dict[str, list[str]]:
    """Read the display names: `a,b,c` in English, or a JSON file {"en": […], "vi": […]}.

    Raises: BadInput if their number differs from that of the labels.
    """
    if text is None:
        return {"en": [label.replace("_", " ").strip() for label in labels]}
    document = _document(text, "--names") if Path(text).is_file() else None
    found = document if isinstance(document, dict) else {"en": document or _split(text)}
    return _by_language(found, labels, "--names")


def read_descriptions(text: str | None, labels: Sequence[str]) -> dict[str, list[str]]:
    """Read one sentence per label from a JSON file {"en": […], "vi": […]}.

    Raises: BadInput if there is no such file, or the number differs from the labels.
    """
    if text is None:
        return {}
    if not Path(text).is_file():
        raise BadInput(f'--descriptions {text} is not a file: give JSON {{"en": ["…", "…"]}}.')
    document = _document(text, "--descriptions")
    found = document if isinstance(document, dict) else {"en": document}
    return _by_language(found, labels, "--descriptions")


def read_urgent(text: str | None, labels: Sequence[str]) -> list[str]:
    """Read the labels for which users should see a doctor soon.

    Raises: BadInput if one is not a label of the model.
    """
    found = _split(text) if text else []
    for label in found:
        if label not in labels:
            raise BadInput(f"--urgent {label!r} is not one of the labels {', '.join(labels)}.")
    return found


def _document(path: str, option: str) -> object:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{option} {path} is not JSON.") from error


def _by_language(
    found: dict[str, object], labels: Sequence[str], option: str
) -> dict[str, list[str]]:
    """Check that there is English, and that each language has one text per label."""
    texts = {}
    for language, values in found.items():
        if not isinstance(values, list) or len(values) != len(labels):
            raise BadInput(f"{option} needs {len(labels)} texts in {language!r}, one per label.")
        texts[language] = [str(value) for value in values]
    if "en" not in texts:
        raise BadInput(f'{option} has no English texts: add "en".')
    return texts


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
        raise BadInput(f"{path.name} is neither a list of labels nor a mapping to indices.")
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
        raise BadInput(f"{path.name} does not number its labels 0 to {len(document) - 1}.")
    return [pairs[place].strip() for place in sorted(pairs)]

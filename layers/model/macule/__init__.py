"""macule: a skin-lesion classifier that estimates the memory of each image before decoding it.

    import macule

    classifier = macule.load()
    result = classifier.predict("photo.jpg")
    result.decision, result.predictions[0].label, result.explain().overlay

Importing this loads neither numpy, Pillow nor LiteRT. docs/python.md describes the API.
"""

from typing import TYPE_CHECKING

from macule import errors
from macule.errors import (
    BadCard,
    BadImage,
    BadRequest,
    BodyTooLarge,
    CannotFit,
    ImageTooLarge,
    Macule,
    ModelUnavailable,
    NoMaps,
    SlowImage,
    Unreadable,
    UnsupportedImage,
)

if TYPE_CHECKING:
    from macule.inference.classification import Explanation, Prediction
    from macule.inference.classifier import Classifier, Result, load
else:
    LAZY_EXPORTS = {
        "Classifier": "inference.classifier",
        "Explanation": "inference.classification",
        "Prediction": "inference.classification",
        "Result": "inference.classifier",
        "load": "inference.classifier",
    }

    def __getattr__(name: str) -> object:
        """Import the API on first use: the service and the health function do not need it."""
        if name not in LAZY_EXPORTS:
            raise AttributeError(f"module 'macule' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"macule.{LAZY_EXPORTS[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *LAZY_EXPORTS})


__all__ = [
    "BadCard",
    "BadImage",
    "BadRequest",
    "BodyTooLarge",
    "CannotFit",
    "Classifier",
    "Explanation",
    "ImageTooLarge",
    "Macule",
    "ModelUnavailable",
    "NoMaps",
    "Prediction",
    "Result",
    "SlowImage",
    "Unreadable",
    "UnsupportedImage",
    "__version__",
    "errors",
    "load",
]
__version__ = "0.1.0"

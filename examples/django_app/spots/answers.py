"""The result type of both ways to use the model."""

from base64 import b64encode
from typing import NamedTuple


class Answer(NamedTuple):
    """`predictions` are (name, probability), the likeliest first; `overlay` is a data URI or ""."""

    decision: str
    predictions: list[tuple[str, float]]
    overlay: str
    disclaimer: str


class Refused(Exception):
    """A photo without an answer: the HTTP status, and a sentence for the visitor."""

    def __init__(self, status, detail):
        super().__init__(detail)
        self.status, self.detail = status, detail


def data_uri(png):
    return "data:image/png;base64," + b64encode(png).decode("ascii")

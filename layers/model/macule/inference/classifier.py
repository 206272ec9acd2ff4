"""The Python API: a model that is loaded once and used from any thread of a program.

Results equal those of the service. The API reads no environment variables and leaves the process
alone: no signal handlers, no timers, no allocator options, no metrics.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

from macule.errors import BadRequest, Macule, ModelUnavailable, NoMaps
from macule.inference import classification, decoding, inputs, ordered_map
from macule.inference.classification import Explanation, Prediction, draw_explanation
from macule.inference.options import TTA_PASSES
from macule.inference.runtime import loading
from macule.memory import budget
from macule.registry import local
from macule.settings import MB, Source, parsers, urls

if TYPE_CHECKING:
    from PIL.Image import Image

    from macule.inference.inputs import Photo
    from macule.inference.runtime import ActivationMap
    from macule.registry.model_card import Card

AHEAD_PER_CPU = 2  # photos per CPU that `predict_many` works on ahead of the caller


class Limits(NamedTuple):
    """Decoding limits; the defaults are those of the service."""

    max_bytes: int
    max_pixels: int
    decode_timeout_s: float


class _ExplanationInput(NamedTuple):
    """Inputs of an explanation: the network's input and the activation map of the first label."""

    picture: Image
    size: tuple[int, int]
    activation: ActivationMap | None


@dataclass(frozen=True, slots=True)
class Result:
    """The model's result for one photo.

    `decision` is `classified`, `inconclusive` or `not_skin`. `reason` says why it is inconclusive:
    `not_dermoscopic`, `unfamiliar` or `low_probability`; None for the other decisions.
    `predictions` has every label, the most probable first. `warnings` lists problems of the file,
    such as a truncated one. `disclaimer` is the medical disclaimer to show with a result.
    """

    decision: str
    predictions: tuple[Prediction, ...]
    _card: Card = field(repr=False, compare=False)
    _explanation_input: _ExplanationInput | None = field(repr=False, compare=False)
    warnings: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def disclaimer(self) -> str:
        return classification.DISCLAIMER

    def prediction_set(self, percent: int = 90) -> tuple[str, ...]:
        """Return the labels that contain the right one for *percent* % of such photos.

        The most probable label is first, and always in.
        Raises: BadRequest for a coverage that the model's card does not have.
        """
        classification.check_coverage(self._card, percent)
        return classification.prediction_set(self._card, self.predictions, percent)

    def explain(self) -> Explanation:
        """Draw the activation map of the most probable label.

        Raises: NoMaps if the model has no activation maps, or with `explainable=False`.
        """
        if self._explanation_input is None:
            raise NoMaps("This result was made with explainable=False; leave that out.")
        picture, size, activation = self._explanation_input
        card = self._card
        if activation is None:
            why = f"The model {card.name} has no activation maps; its card and REPORT.md say why."
            raise NoMaps(why)
        return draw_explanation(card, self.predictions[0].label, activation, picture, size)


class _ProcessState(NamedTuple):
    """The model of one process, and a semaphore that bounds the photos decoded at once."""

    model: loading.LoadedModel
    slots: BoundedSemaphore


class Classifier:
    """A loaded model; create it with `load`.

    Thread-safe: one photo per CPU is decoded at once, and the network runs one at a time.
    After a fork the child process loads the same file again.
    """

    def __init__(self, source: Source, limits: Limits) -> None:
        state = _load_state(source)
        self._limits = limits
        self._by_pid = {os.getpid(): state}
        # forked processes load the same file, or fail
        self._source = Source(os.path.dirname(state.model.path), state.model.card.sha256, 0.0, None)

    @property
    def model(self) -> dict[str, str]:
        """Name, version, sha256 and precision, as in the service's answers."""
        return self._state().model.identity()

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, in the order of the network's outputs."""
        return self._state().model.card.labels

    def predict(self, photo: Photo, *, tta: int = 1) -> Result:
        """Classify one photo: a path, bytes, a binary file, a PIL image or a uint8 array (h, w, 3).

        *tta*: 4 averages the probabilities of the photo and its three mirror images.
        Raises: Unreadable, BodyTooLarge, ImageTooLarge, UnsupportedImage, BadImage, SlowImage,
          CannotFit; BadRequest for any other type or *tta*; ModelUnavailable.
        """
        if tta not in TTA_PASSES:
            raise BadRequest(f"tta is {tta!r}; expected 1 or 4.")
        state, body = self._state(), inputs.read(photo, self._limits.max_bytes)
        card = state.model.card
        with state.slots:
            decoded, size = self._decode(body, card)
            found = classification.classify(state.model, decoded.picture, tta)
        explained = _ExplanationInput(decoded.picture, size, found.activation)
        decision, reason = found.verdict
        return Result(decision, found.predictions, card, explained, tuple(decoded.warnings), reason)

    @overload
    def predict_many(
        self,
        photos: Iterable[Photo],
        *,
        return_exceptions: Literal[False] = False,
        explainable: bool = True,
    ) -> Iterator[Result]: ...

    @overload
    def predict_many(
        self, photos: Iterable[Photo], *, return_exceptions: bool, explainable: bool = True
    ) -> Iterator[Result | Macule]: ...

    def predict_many(
        self, photos: Iterable[Photo], *, return_exceptions: bool = False, explainable: bool = True
    ) -> Iterator[Result | Macule]:
        """Yield one result for each photo, in order, working a few photos ahead.

        Args:
          return_exceptions: yield the error of a photo in its place instead of raising it, which
            ends the iteration.
          explainable: keep the data that `explain` needs, side x side x 3 bytes per result.
        Raises: the errors of `predict`.
        """

        def one(photo: Photo) -> Result | Macule:
            try:
                found = self.predict(photo)
            except Macule as error:
                if not return_exceptions:
                    raise
                return _without_traceback(error)
            return found if explainable else replace(found, _explanation_input=None)

        workers = worker_count()
        return ordered_map.ordered_map(photos, one, workers, workers * AHEAD_PER_CPU)

    def _decode(self, photo: bytes | Image, card: Card) -> tuple[decoding.Decoded, tuple[int, int]]:
        """Decode a photo; return the network's input, and width and height of the upright photo."""
        limits = self._limits
        if isinstance(photo, bytes):
            header = decoding.inspect(photo, limits.max_pixels)
            decoded = decoding.decode(photo, card.side_px, card.resize, limits.decode_timeout_s)
            return decoded, header.upright_size
        size = decoding.measure(photo, limits.max_pixels)
        return decoding.fit(photo, card.side_px, card.resize), size

    def _state(self) -> _ProcessState:
        """Return this process's state. `setdefault` is atomic; a lock could be held at a fork."""
        pid = os.getpid()
        return self._by_pid.get(pid) or self._by_pid.setdefault(pid, _load_state(self._source))

    def __repr__(self) -> str:
        card = self._state().model.card
        return f"<Classifier {card.name} {card.version} ({card.precision}, {card.sha256[:12]})>"


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    max_bytes: int = 10 * MB,
    max_pixels: int = 120_000_000,
    decode_timeout_s: float = 20.0,
    model_sha256: str | None = None,
    model_timeout_s: float = 30.0,
    model_cache_dir: str | os.PathLike[str] | None = None,
) -> Classifier:
    """Load a model from a folder, from a URL, or the active model of this installation.

    Args:
      model: a folder written by `macule convert`, or an https://, s3:// or gs:// URL of one; None
        loads the active model.
      max_bytes, max_pixels, decode_timeout_s: limits for one photo.
      model_sha256: the only model file that may be loaded.
      model_timeout_s, model_cache_dir: for a URL: download timeout and cache folder.
    Raises: ModelUnavailable, BadCard; BadRequest for an invalid argument.
    """
    limits = Limits(max_bytes, max_pixels, decode_timeout_s)
    _check_positive(max_bytes=max_bytes, max_pixels=max_pixels)
    _check_positive(decode_timeout_s=decode_timeout_s, model_timeout_s=model_timeout_s)
    try:
        digest = None if model_sha256 is None else parsers.sha256(model_sha256)
    except ValueError as error:
        raise BadRequest(f"model_sha256 is not {error}.") from None
    cache_dir = None if model_cache_dir is None else os.path.abspath(model_cache_dir)
    return Classifier(Source(_resolve_model(model), digest, model_timeout_s, cache_dir), limits)


def _check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        kind = float if name.endswith("_s") else int
        if type(value) not in (int, kind) or not 0 < value < math.inf:
            expected = "seconds" if kind is float else "a whole number"
            raise BadRequest(f"{name} is {value!r}; expected {expected} above 0.")


def _resolve_model(model: str | os.PathLike[str] | None) -> str:
    """Return the URL, or the absolute path, as the program may change its working directory."""
    if model is None:
        return local.active_folder()
    if not isinstance(model, str | os.PathLike):
        kind = type(model).__name__
        raise BadRequest(f"model is of type {kind}; expected a folder, an address or None.")
    place = os.fspath(model)
    if "://" in place:
        if why := urls.rejection_reason(place):
            raise BadRequest(f"The model's address {why}.")
        return place
    if os.path.isdir(place):
        return os.path.abspath(place)
    if os.path.exists(place):
        hint = "run `macule convert` on it, and load the folder that it writes"
        raise ModelUnavailable(f"{place} is a file; {hint}.")
    raise ModelUnavailable(f"There is no folder {place}.")


def _load_state(source: Source) -> _ProcessState:
    return _ProcessState(loading.load(source, on_trial=False), BoundedSemaphore(worker_count()))


def worker_count() -> int:
    """Return how many photos are decoded at once: one for each processor."""
    return max(1, math.ceil(budget.cpu_count()))


def _without_traceback(error: Macule) -> Macule:
    """Remove traceback, cause and context, whose frames reference the photo."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)

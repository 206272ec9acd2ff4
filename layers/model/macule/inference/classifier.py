"""The Python API: a model that is loaded once and asked from any thread of a program.

It answers as the service does, and reads no environment variable. What it does to its process is
only what it must: no signal, no timer, no setting of the allocator, no metric.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

from macule.errors import BadRequest, Macule, ModelUnavailable, NoMaps
from macule.inference import classification, decoding, inputs, ordered_map, runtime
from macule.inference.classification import Explanation, Prediction
from macule.memory import budget
from macule.registry import local
from macule.settings import MB, Source, parsers, urls

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from macule.inference.inputs import Photo
    from macule.registry.model_card import Card

AHEAD_PER_CPU = 2  # photos a processor that `predict_many` has begun and not yielded


class Limits(NamedTuple):
    """What is decoded at most; the defaults are those of the service."""

    max_bytes: int
    max_pixels: int
    decode_timeout_s: float


class _ExplanationInput(NamedTuple):
    """What an explanation is drawn from: what the network saw, and its map of the first label."""

    card: Card
    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    activation: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Result:
    """What the model says of one photo.

    `decision` is `classified`, `inconclusive` or `not_skin`; `predictions` has every label, the
    likeliest first. `warnings` says what is wrong with the file, as where it was cut off.
    `disclaimer` is what a person who reads them has to know.
    """

    decision: str
    predictions: tuple[Prediction, ...]
    _evidence: _ExplanationInput | None = field(repr=False, compare=False)
    warnings: tuple[str, ...] = ()

    @property
    def disclaimer(self) -> str:
        return classification.DISCLAIMER

    def explain(self) -> Explanation:
        """Draw where the evidence for the likeliest label lies.

        Raises: NoMaps, where the model has no activation maps, or the result was not to keep them.
        """
        if self._evidence is None:
            raise NoMaps("This result was made with explainable=False; leave that out.")
        card, pixels, size, activation = self._evidence
        if activation is None:
            raise NoMaps(
                f"The model {card.name} has no activation maps; its card and REPORT.md say why."
            )
        return classification.draw_explanation(
            card, self.predictions[0].label, activation, pixels, size
        )


class _ProcessState(NamedTuple):
    """What one process has: the model, and room for as many photos at once as processors."""

    warm: runtime.LoadedModel
    room: BoundedSemaphore


class Classifier:
    """A loaded model, made by `load`.

    It may be shared by threads: as many photos are decoded at once as there are processors, and
    the network runs one at a time. After a fork the child loads the same file anew.
    """

    def __init__(self, where: Source, limits: Limits) -> None:
        here = _load_state(where)
        self._limits = limits
        self._by_pid = {os.getpid(): here}
        # what other processes of this one load: the same file, or none
        self._same = Source(os.path.dirname(here.warm.path), here.warm.card.sha256, 0.0, None)

    @property
    def model(self) -> dict[str, str]:
        """Name, version, sha256 and precision, as the service's answers have them."""
        return self._here().warm.identity()

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, in the order of the network's outputs."""
        return self._here().warm.card.labels

    def predict(self, photo: Photo) -> Result:
        """Classify one photo: a path, bytes, a binary file, a PIL image or a uint8 array (h, w, 3).

        Raises: Unreadable, BodyTooLarge, ImageTooLarge, UnsupportedImage, BadImage, SlowImage,
          CannotFit; BadRequest where it is none of these; ModelUnavailable.
        """
        here, body = self._here(), inputs.read(photo, self._limits.max_bytes)
        card = here.warm.card
        with here.room:
            decoded, size = self._decode(body, card)
            finding = classification.classify(here.warm, decoded.pixels)
        evidence = _ExplanationInput(card, decoded.pixels, size, finding.evidence)
        return Result(finding.decision, finding.predictions, evidence, tuple(decoded.warnings))

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
        self,
        photos: Iterable[Photo],
        *,
        return_exceptions: bool = False,
        explainable: bool = True,
    ) -> Iterator[Result | Macule]:
        """Yield one result for each photo, in their order, a few ahead of what is asked for.

        Args:
          return_exceptions: yield what is wrong with a photo in its place; else it is raised, and
            the rest is not looked at.
          explainable: let results keep what `explain` needs, side x side x 3 bytes each.
        Raises: as `predict`.
        """

        def one(photo: Photo) -> Result | Macule:
            try:
                found = self.predict(photo)
            except Macule as error:
                if not return_exceptions:
                    raise
                return _without_traceback(error)
            return found if explainable else replace(found, _evidence=None)

        workers = _worker_count()
        return ordered_map.ordered_map(photos, one, workers, workers * AHEAD_PER_CPU)

    def _decode(self, photo: bytes | Image, card: Card) -> tuple[decoding.Decoded, tuple[int, int]]:
        """Bring a photo to the network's input; return it, and the photo's width and height."""
        limits = self._limits
        if isinstance(photo, bytes):
            header = decoding.inspect(photo, limits.max_pixels)
            decoded = decoding.decode(photo, card.side_px, card.resize, limits.decode_timeout_s)
            return decoded, header.upright_size
        size = decoding.measure(photo, limits.max_pixels)
        return decoding.fit(photo, card.side_px, card.resize), size

    def _here(self) -> _ProcessState:
        """Return this process's model. `setdefault` is atomic: no lock that a fork could hold."""
        pid = os.getpid()
        return self._by_pid.get(pid) or self._by_pid.setdefault(pid, _load_state(self._same))

    def __repr__(self) -> str:
        card = self._here().warm.card
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
    """Load a model: a folder that `macule convert` wrote, an address, or the default one.

    Args:
      model: a folder, or what https://, s3:// or gs:// leads to one; None is the model in use.
      max_bytes, max_pixels, decode_timeout_s: of one photo; beyond them it is refused.
      model_sha256: of the only file that may be loaded.
      model_timeout_s, model_cache_dir: for an address: the time to fetch it, the folder to keep it.
    Raises: ModelUnavailable, BadCard; BadRequest for an argument that cannot be used.
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
    """Return the address, or the folder by its whole path: the program may go elsewhere."""
    if model is None:
        return local.active_folder()
    if not isinstance(model, str | os.PathLike):
        kind = type(model).__name__
        raise BadRequest(f"model is of type {kind}; expected a folder, an address or None.")
    place = os.fspath(model)
    if "://" in place:
        if why := urls.refusal(place):
            raise BadRequest(f"The model's address {why}.")
        return place
    if not os.path.isdir(place):
        made = "run `macule convert` on it, and load the folder that it writes"
        raise ModelUnavailable(
            f"{place} is a file; {made}."
            if os.path.exists(place)
            else f"There is no folder {place}."
        )
    return os.path.abspath(place)


def _load_state(where: Source) -> _ProcessState:
    return _ProcessState(runtime.load(where, on_trial=False), BoundedSemaphore(_worker_count()))


def _worker_count() -> int:
    return max(1, math.ceil(budget.cpu_count()))


def _without_traceback(error: Macule) -> Macule:
    """Drop the frames in which it was raised: they hold the photo."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)

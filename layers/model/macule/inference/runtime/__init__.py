"""The model of this process: load it once, run it."""

from __future__ import annotations

import logging
import math
import os
import time
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from macule.errors import ModelUnavailable
from macule.inference import decoding
from macule.inference.runtime import loading, tensors
from macule.inference.runtime.litert import LiteRtError, Tensor
from macule.inference.runtime.loading import LoadedModel
from macule.inference.runtime.tensors import LOGITS, MAPS, OOD_SCORES
from macule.memory import processes
from macule.observability import metrics
from macule.registry.model_card import Card
from macule.settings import ModelLocation, Source

if TYPE_CHECKING:
    from array import array

    from PIL.Image import Image

log = logging.getLogger("macule")


class ActivationMap(NamedTuple):
    """The activation map of one class: float32 `values`, row by row, of any range."""

    values: array[float]
    width: int
    height: int


class Maps(NamedTuple):
    """The activation maps of all classes, as the network returns them: (1, h, w, classes)."""

    raw: bytes
    tensor: Tensor

    def of(self, label: int) -> ActivationMap:
        """Return the map of the class with this index."""
        _, height, width, classes = self.tensor.shape
        values = tensors.floats(self.raw, self.tensor, slice(label, None, classes))
        return ActivationMap(values, width, height)


class Scores(NamedTuple):
    """The network's outputs for one image.

    `probabilities`: calibrated, sum 1, in the card's order.
    `maps`: class activation maps; None if the model has none.
    `distance`: out-of-distribution score, about 1 for known images; None if the model has none.
    `clinical`: higher for photos that look taken without a dermatoscope; None as above.
    """

    probabilities: list[float]
    maps: Maps | None
    distance: float | None
    clinical: float | None


class ProcessModel:
    """The model of one process. A forked child loads its own: interpreters do not survive."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.model: LoadedModel | None = None
        self.loading = False
        self.failure: ModelUnavailable | None = None
        self.failures = 0


by_pid: dict[int, ProcessModel] = {}


def state() -> tuple[str, str]:
    """Return cold, loading, ready or failed, and the error of a failure; never waits."""
    present = _process_model()
    if present.model:
        return "ready", ""
    if present.loading:
        return "loading", ""
    return ("failed", str(present.failure)) if present.failure else ("cold", "")


def loaded() -> LoadedModel | None:
    """Return the model if it is loaded in this process; never waits."""
    return _process_model().model


def get_or_load(where: ModelLocation) -> LoadedModel:
    """Return the model from *where*, loading it at the first call.

    Concurrent calls wait for the first one and share its outcome.

    Raises: ModelUnavailable, BadCard; the next call tries again.
    """
    present = _process_model()
    if present.model:
        return present.model
    failures = present.failures
    with present.lock:
        if present.model:
            return present.model
        if present.failure and present.failures != failures:  # else each caller waits a time-out
            raise present.failure.with_traceback(None)
        present.loading = True
        try:
            present.model = loading.load(where, on_trial=True)
            present.failure = None
            _log_loaded(present.model)
            return present.model
        except ModelUnavailable as error:
            present.failure = error
            present.failures += 1
            facts = {"event": "model_failed", "slug": error.slug}
            log.error("model not loaded: %s", error, extra={"facts": facts})
            raise
        finally:
            present.loading = False


def card(where: ModelLocation) -> Card:
    """Return the card of the model from *where*; a remote model is downloaded and loaded.

    Raises: ModelUnavailable, BadCard.
    """
    if isinstance(where, Source) or loaded():
        return get_or_load(where).card
    from macule.registry import local, model_card

    return model_card.read(where or local.active_folder())


def run(model: LoadedModel, picture: Image) -> Scores:
    """Classify one image.

    *picture*: RGB, of the size of the network's input, as `decoding.decode` returns it.
    Raises: ModelUnavailable if the runtime fails, or the outputs contain NaN or infinity.
    """
    card = model.card
    source = tensors.network_input(tensors.arrange(picture, card.channels), model.tables)
    with model.lock:
        began = time.perf_counter()
        first = "first" not in model.grown
        before = processes.resident_bytes() if first else 0
        try:
            with loading.guarded(model.path, card, model.on_trial and first, first_run=True):
                raw = model.session.run(source)
        except LiteRtError as error:
            raise ModelUnavailable(f"{card.file} cannot be run: {error}.") from error
        if first:
            model.stages["first"] = (time.perf_counter() - began) * 1e3
            model.grown["first"] = processes.resident_bytes() - before
    found = {rank: (raw[at], tensor) for rank, (at, tensor) in model.outputs.items()}
    logits = tensors.as_logits(tensors.floats(*found[LOGITS]), card.output)
    probabilities = tensors.softmax(logits, card.temperature)
    ood_scores = tensors.floats(*found[OOD_SCORES]) if OOD_SCORES in found else ()
    if not all(map(math.isfinite, (*probabilities, *ood_scores))):
        raise ModelUnavailable(f"{card.file} answers with values that are not numbers.")
    distance, clinical = [*ood_scores, None, None][:2]
    maps = Maps(*found[MAPS]) if MAPS in found else None
    return Scores(probabilities, maps, distance, clinical)


def run_blank(model: LoadedModel) -> Scores:
    """Run the model once on a black picture, to warm it up."""
    from PIL.Image import new

    height, width = decoding.sides(model.card.side_px)
    return run(model, new("RGB", (width, height)))


def _process_model() -> ProcessModel:
    """Return this process's model. `setdefault` is atomic; a lock could be held at a fork."""
    pid = os.getpid()
    if pid not in by_pid:
        if any(other.model for other in by_pid.values()):
            log.warning("a model was loaded before the fork; process %d loads its own", pid)
        by_pid.setdefault(pid, ProcessModel())
    return by_pid[pid]


def _log_loaded(model: LoadedModel) -> None:
    card, stages = model.card, model.stages
    spent = ", ".join(f"{name} {ms:.0f} ms" for name, ms in stages.items())
    stage_ms = {f"{name}_ms": round(ms, 1) for name, ms in stages.items()}
    facts = {"event": "cold_start", "model": card.sha256[:12], **stage_ms}
    log.info("model %s %s is warm: %s", card.name, card.version, spent, extra={"facts": facts})
    metrics.observe("macule_cold_start_seconds", sum(stages.values()) / 1e3)
    metrics.register_gauge("macule_models_loaded", lambda: 1.0)

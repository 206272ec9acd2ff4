"""The model of this process: load it once, run it."""

from __future__ import annotations

import logging
import os
import time
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from macule.errors import ModelUnavailable
from macule.inference.runtime import loading
from macule.inference.runtime.loading import LoadedModel
from macule.inference.runtime.tensors import arrange, as_logits, dequantize
from macule.memory import processes
from macule.observability import metrics
from macule.registry.model_card import Card
from macule.settings import ModelLocation, Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("macule")


class Scores(NamedTuple):
    """The network's outputs for one image.

    `probabilities`: shape (classes,), float32, calibrated, sum 1, in the card's order.
    `maps`: shape (h, w, classes), float32, class activation maps; None if the model has none.
    `distance`: out-of-distribution score, about 1 for known images; None if the model has none.
    `clinical`: higher for photos that look taken without a dermatoscope; None as above.
    """

    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32] | None
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


def run(model: LoadedModel, pixels: NDArray[np.uint8]) -> Scores:
    """Classify one image.

    *pixels*: shape (1, height, width, 3), uint8, RGB, as `decoding.decode` returns them.
    Raises: ModelUnavailable if the outputs contain NaN or infinity.
    """
    import numpy as np

    arranged = arrange(pixels, model.card.channels)
    planes = [levels[arranged[..., channel]] for channel, levels in enumerate(model.levels)]
    tensor = np.stack(planes, axis=-1)
    with model.lock:
        began = time.perf_counter()
        first = "first" not in model.grown
        before = processes.resident_bytes() if first else 0
        model.interpreter.set_tensor(model.input_index, tensor)
        on_trial = model.on_trial and first
        with loading.guarded(model.path, model.card, on_trial, first_run=True):
            model.interpreter.invoke()
        logits = as_logits(_output(model, model.logits), model.card.output)
        maps = _output(model, model.maps) if model.maps else None
        distance, clinical = _ood_scores(model)
        if first:
            model.stages["first"] = (time.perf_counter() - began) * 1e3
            model.grown["first"] = processes.resident_bytes() - before
    powers = np.exp((logits - logits.max()) / np.float32(model.card.temperature))
    probabilities = powers / powers.sum()
    if not np.isfinite([*probabilities, distance or 0.0, clinical or 0.0]).all():
        raise ModelUnavailable(f"{model.card.file} answers with values that are not numbers.")
    return Scores(probabilities, maps, distance, clinical)


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


def _ood_scores(model: LoadedModel) -> tuple[float | None, float | None]:
    """Return the distance and the clinical score; this output has no batch dimension."""
    if model.ood is None:
        return None, None
    values = dequantize(model.interpreter.get_tensor(model.ood["index"]), model.ood)
    return float(values[0]), float(values[1]) if len(values) == 2 else None


def _output(model: LoadedModel, details: dict[str, Any]) -> NDArray[np.float32]:
    """Copy an output out of the interpreter, without the batch dimension."""
    return dequantize(model.interpreter.get_tensor(details["index"])[0], details)

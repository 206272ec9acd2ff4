"""The warm global: load once, run; the only importer of the runtime."""

from __future__ import annotations

import logging
import os
import time
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from macule.errors import ModelUnavailable
from macule.inference import decoding
from macule.memory import processes
from macule.observability import metrics
from macule.registry import remote, trial_run
from macule.registry.model_card import CHANNELS, Card
from macule.settings import Source, Where

if TYPE_CHECKING:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from numpy.typing import NDArray

log = logging.getLogger("macule")


class Scores(NamedTuple):
    """What the network says of one image.

    `probabilities`: shape (classes,), float32, calibrated, sum 1, in the card's order.
    `maps`: shape (h, w, classes), float32, class-activation maps; None where the file has none.
    `distance`: from the images that the network knows, about 1 for those; None likewise.
    """

    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32] | None
    distance: float | None


class LoadedModel(NamedTuple):
    """A loaded model. `levels` maps a pixel value to network input: shape (channels, 256).

    `stages` holds the milliseconds of fetch, import, load and, after the first run, first;
    `grown` the bytes that this process grew by in the same. `on_trial`: a service's, see `trial`.
    """

    card: Card
    path: str
    interpreter: Interpreter
    levels: NDArray[Any]
    input_index: int
    logits: dict[str, Any]
    maps: dict[str, Any] | None
    distance: dict[str, Any] | None
    lock: Lock
    stages: dict[str, float]
    grown: dict[str, int]
    on_trial: bool

    @property
    def cold_start_ms(self) -> float:
        return round(sum(self.stages.values()), 1)

    def identity(self) -> dict[str, str]:
        """Name the model as answers do."""
        card = self.card
        return {
            "name": card.name,
            "version": card.version,
            "sha256": card.sha256,
            "precision": card.precision,
        }


class ProcessModel:
    """The model of one process. An interpreter does not survive a fork, so a child starts anew."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.warm: LoadedModel | None = None
        self.loading = False
        self.failure: ModelUnavailable | None = None
        self.failures = 0


_by_pid: dict[int, ProcessModel] = {}


def state() -> tuple[str, str]:
    """Return cold, loading, ready or failed, and why it failed; never waits."""
    here = _process_model()
    if here.warm:
        return "ready", ""
    if here.loading:
        return "loading", ""
    return ("failed", str(here.failure)) if here.failure else ("cold", "")


def loaded() -> LoadedModel | None:
    """Return the model if it is loaded in this process; never waits."""
    return _process_model().warm


def get_or_load(where: Where) -> LoadedModel:
    """Return the model from *where*, loading it at the first call.

    Calls meanwhile wait for that one and share its outcome.

    Raises: ModelUnavailable, BadCard; the next call tries again.
    """
    here = _process_model()
    if here.warm:
        return here.warm
    failures = here.failures
    with here.lock:
        if here.warm:
            return here.warm
        if here.failure and here.failures != failures:  # else a crowd waits a time-out each
            raise here.failure.with_traceback(None)
        here.loading = True
        try:
            here.warm = load(where, on_trial=True)
            here.failure = None
            _log_loaded(here.warm)
            return here.warm
        except ModelUnavailable as error:
            here.failure = error
            here.failures += 1
            facts = {"event": "model_failed", "slug": error.slug}
            log.error("model not loaded: %s", error, extra={"facts": facts})
            raise
        finally:
            here.loading = False


def card(where: Where) -> Card:
    """Return the card of the model from *where*; one that is elsewhere is fetched and loaded.

    Raises: ModelUnavailable, BadCard.
    """
    if isinstance(where, Source) or loaded():
        return get_or_load(where).card
    from macule.registry import local, model_card

    return model_card.read(where or local.active_folder())


def run(warm: LoadedModel, pixels: NDArray[np.uint8]) -> Scores:
    """Classify one image.

    *pixels*: shape (1, height, width, 3), uint8, RGB, as `decoding.decode` returns them.
    Raises: ModelUnavailable where the file's numbers are no numbers.
    """
    import numpy as np

    arranged = arrange(pixels, warm.card.channels)
    planes = [levels[arranged[..., place]] for place, levels in enumerate(warm.levels)]
    tensor = np.stack(planes, axis=-1)
    with warm.lock:
        began = time.perf_counter()
        first = "first" not in warm.grown
        before = processes.resident_bytes() if first else 0
        warm.interpreter.set_tensor(warm.input_index, tensor)
        with _trial(warm.path, warm.card, warm.on_trial and first, first_run=True):
            warm.interpreter.invoke()
        logits = as_logits(_output(warm, warm.logits), warm.card.output)
        maps = _output(warm, warm.maps) if warm.maps else None
        distance = float(_output(warm, warm.distance)) if warm.distance else None
        if first:
            warm.stages["first"] = (time.perf_counter() - began) * 1e3
            warm.grown["first"] = processes.resident_bytes() - before
    powers = np.exp((logits - logits.max()) / np.float32(warm.card.temperature))
    probabilities = powers / powers.sum()
    if not np.isfinite([*probabilities, distance or 0.0]).all():
        raise ModelUnavailable(f"{warm.card.file} answers with values that are not numbers.")
    return Scores(probabilities, maps, distance)


def arrange(pixels: NDArray[np.uint8], channels: str) -> NDArray[np.uint8]:
    """Bring RGB pixels (n, h, w, 3) into the order that a network takes: rgb, bgr or gray.

    Gray is ITU-R 601 luma in Pillow's fixed point, so that it equals `convert("L")`.
    """
    import numpy as np

    if channels == "rgb":
        return pixels
    if channels == "bgr":
        return pixels[..., ::-1]
    luma = pixels @ np.array([19595, 38470, 7471], np.uint32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]


def as_logits(scores: NDArray[np.float32], output: str) -> NDArray[np.float32]:
    """Turn what a file gives into logits, whose softmax it is."""
    import numpy as np

    if output == "logits":
        return scores
    shares = np.clip(scores, 1e-7, 1.0)  # a quantized 0 is less than half a step of 1/256
    if output == "sigmoid":
        shares = np.concatenate([np.clip(1 - scores, 1e-7, 1.0), shares])
    logarithms: NDArray[np.float32] = np.log(shares)
    return logarithms


def _process_model() -> ProcessModel:
    """Return this process's model. `setdefault` is atomic: no lock that a fork could hold."""
    pid = os.getpid()
    if pid not in _by_pid:
        if any(here.warm for here in _by_pid.values()):
            log.warning("a model was loaded before the fork; process %d loads its own", pid)
        _by_pid.setdefault(pid, ProcessModel())
    return _by_pid[pid]


def load(where: Where, on_trial: bool) -> LoadedModel:
    """Find the file and check it, import the runtime, map it.

    In this order, as the process that fetches a model takes memory while it runs.
    *on_trial*: whether what the file does to processes is remembered, and a load or first run
    without an end ends this one; only a process that serves alone may be.
    Raises: ModelUnavailable, BadCard.
    """
    clock, sizes = [time.perf_counter()], [processes.resident_bytes()]

    def lap() -> None:
        clock.append(time.perf_counter())
        sizes.append(processes.resident_bytes())

    path, card = remote.find(where)
    lap()
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    lap()
    try:
        with _trial(path, card, on_trial):  # maps the file, copies nothing
            interpreter = Interpreter(model_path=path, num_threads=1)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelUnavailable(f"{card.file} is not a model that LiteRT can run.") from error
    source, *_ = interpreter.get_input_details()
    outputs = {len(output["shape"]): output for output in interpreter.get_output_details()}
    _check_shapes(card, source, outputs)
    lap()
    names = ("fetch", "import", "load")
    stages = {name: (b - a) * 1e3 for name, (a, b) in zip(names, pairwise(clock), strict=True)}
    grown = {name: b - a for name, (a, b) in zip(names, pairwise(sizes), strict=True)}
    values = np.arange(256, dtype=np.float32)
    scaled = [(values - mean) / std for mean, std in zip(card.mean, card.std, strict=True)]
    return LoadedModel(
        card,
        path,
        interpreter,
        quantize(np.stack(scaled), source),
        source["index"],
        outputs[2],
        outputs.get(4),
        outputs.get(1),
        Lock(),
        stages,
        grown,
        on_trial,
    )


def _trial(
    path: str, card: Card, on_trial: bool, first_run: bool = False
) -> AbstractContextManager[None]:
    return trial_run.guard(path, card.sha256, first_run) if on_trial else nullcontext()


def _log_loaded(warm: LoadedModel) -> None:
    """Log and count that this process's model is loaded."""
    card, stages = warm.card, warm.stages
    spent = ", ".join(f"{name} {ms:.0f} ms" for name, ms in stages.items())
    told = {f"{name}_ms": round(ms, 1) for name, ms in stages.items()}
    facts = {"event": "cold_start", "model": card.sha256[:12], **told}
    log.info("model %s %s is warm: %s", card.name, card.version, spent, extra={"facts": facts})
    metrics.observe("macule_cold_start_seconds", sum(stages.values()) / 1e3)
    metrics.live("macule_models_loaded", lambda: 1.0)


def _check_shapes(card: Card, source: dict[str, Any], outputs: dict[int, dict[str, Any]]) -> None:
    """Raise ModelUnavailable where the file's shapes are not what the card says."""
    expected = [1, *decoding.sides(card.side_px), CHANNELS[card.channels]]
    found = [int(size) for size in source["shape"]]
    if found != expected:
        raise ModelUnavailable(f"{card.file} takes {found}; its card says {expected}.")
    logits = [int(size) for size in outputs[2]["shape"]] if 2 in outputs else []
    scores = 1 if card.output == "sigmoid" else len(card.labels)
    if logits != [1, scores]:
        raise ModelUnavailable(
            f"{card.file} gives {logits}; its card has {len(card.labels)} labels."
        )
    if card.not_skin_above is not None and 1 not in outputs:
        raise ModelUnavailable(
            f"{card.file} gives no distance, which the card's thresholds.not_skin is about."
        )


def quantize(values: NDArray[np.float32], details: dict[str, Any]) -> NDArray[Any]:
    """Express network input in the type that the file takes."""
    import numpy as np

    kind = np.dtype(details["dtype"])
    if kind.kind == "f":
        return values.astype(kind)
    scale, zero = details["quantization"]
    bounds = np.iinfo(kind)
    levels: NDArray[np.float32] = np.clip(np.round(values / scale) + zero, bounds.min, bounds.max)
    return levels.astype(kind)


def dequantize(raw: NDArray[Any], details: dict[str, Any]) -> NDArray[np.float32]:
    """Bring an output of the file's type back to float32."""
    import numpy as np

    values = raw.astype(np.float32, copy=False)
    if raw.dtype.kind == "f":
        return values
    scale, zero = details["quantization"]
    return (values - np.float32(zero)) * np.float32(scale)


def _output(warm: LoadedModel, details: dict[str, Any]) -> NDArray[np.float32]:
    """Copy an output out of the interpreter, without its batch."""
    return dequantize(warm.interpreter.get_tensor(details["index"])[0], details)

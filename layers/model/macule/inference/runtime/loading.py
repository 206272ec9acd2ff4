"""Loading of a model: find and check the file, create the interpreter, check the shapes."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from macule.errors import ModelUnavailable
from macule.inference import decoding
from macule.inference.runtime.tensors import quantize
from macule.memory import processes
from macule.registry import remote, trial_run
from macule.registry.model_card import CHANNELS, Card
from macule.settings import ModelLocation

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter
    from numpy.typing import NDArray


class LoadedModel(NamedTuple):
    """A loaded model. `levels` maps a pixel value to network input: shape (channels, 256).

    `stages` holds the milliseconds of fetch, import, load and, after the first run, first;
    `grown` the bytes by which the process grew in each. `on_trial`: see `load`.
    """

    card: Card
    path: str
    interpreter: Interpreter
    levels: NDArray[Any]
    input_index: int
    logits: dict[str, Any]
    maps: dict[str, Any] | None
    ood: dict[str, Any] | None
    lock: Lock
    stages: dict[str, float]
    grown: dict[str, int]
    on_trial: bool

    @property
    def cold_start_ms(self) -> float:
        return round(sum(self.stages.values()), 1)

    def identity(self) -> dict[str, str]:
        """Return name, version, sha256 and precision, as in answers."""
        card = self.card
        return {
            "name": card.name,
            "version": card.version,
            "sha256": card.sha256,
            "precision": card.precision,
        }


def load(where: ModelLocation, on_trial: bool) -> LoadedModel:
    """Find and check the model file, import the runtime, and map the file.

    In this order, as the process that downloads a model takes memory while it runs.

    Args:
      on_trial: record crashes of the file, and end this process if loading or the first run hangs;
        only for a process that does nothing but serve.
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
        with guarded(path, card, on_trial):  # maps the file, copies nothing
            interpreter = Interpreter(model_path=path, num_threads=1)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelUnavailable(f"{card.file} is not a model that LiteRT can run.") from error
    source, *_ = interpreter.get_input_details()
    outputs = {len(output["shape"]): output for output in interpreter.get_output_details()}
    check_shapes(card, source, outputs)
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


def guarded(
    path: str, card: Card, on_trial: bool, first_run: bool = False
) -> AbstractContextManager[None]:
    """Return the trial-run guard of a model file; a null context without *on_trial*."""
    return trial_run.guard(path, card.sha256, first_run) if on_trial else nullcontext()


def check_shapes(card: Card, source: dict[str, Any], outputs: dict[int, dict[str, Any]]) -> None:
    """Check the shapes of input and outputs against the card.

    Raises: ModelUnavailable.
    """
    expected = [1, *decoding.sides(card.side_px), CHANNELS[card.channels]]
    found = [int(size) for size in source["shape"]]
    if found != expected:
        raise ModelUnavailable(f"{card.file} takes {found}; its card says {expected}.")
    logits = [int(size) for size in outputs[2]["shape"]] if 2 in outputs else []
    labels = len(card.labels)
    if logits != [1, 1 if card.output == "sigmoid" else labels]:
        raise ModelUnavailable(f"{card.file} gives {logits}; its card has {labels} labels.")
    if card.not_skin_above is not None and 1 not in outputs:
        raise ModelUnavailable(
            f"{card.file} has no distance output, which the card's thresholds.not_skin needs."
        )
    scores = [int(size) for size in outputs[1]["shape"]] if 1 in outputs else []
    if card.not_dermoscopic_above is not None and scores != [2]:
        raise ModelUnavailable(
            f"{card.file} has no clinical score beside its distance, which the card's "
            "thresholds.not_dermoscopic needs."
        )

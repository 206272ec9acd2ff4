"""Loading of a model: find and check the file, create the session, check the shapes."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from macule.errors import ModelUnavailable
from macule.inference import decoding
from macule.inference.runtime import litert, tensors
from macule.inference.runtime.litert import Session, Tensor
from macule.inference.runtime.tensors import LOGITS, OOD_SCORES
from macule.memory import processes
from macule.registry import remote, trial_run
from macule.registry.model_card import CHANNELS, Card
from macule.settings import ModelLocation

if TYPE_CHECKING:
    from array import array


class LoadedModel(NamedTuple):
    """A loaded model.

    `tables` has the network input for each of 256 pixel values, for each channel. `outputs` has
    the place and the type of each output, by its number of dimensions.
    `stages` holds the milliseconds of fetch, import, load and, after the first run, first;
    `grown` the bytes by which the process grew in each. `on_trial`: see `load`.
    """

    card: Card
    path: str
    session: Session
    tables: list[array[float] | array[int]]
    outputs: dict[int, tuple[int, Tensor]]
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
    try:
        litert.library()
    except litert.LiteRtError as error:
        raise ModelUnavailable(str(error)) from error
    lap()
    try:
        with guarded(path, card, on_trial):  # maps the file, copies nothing
            session = Session(litert.map_file(path))
    except (litert.LiteRtError, OSError, ValueError) as error:
        raise ModelUnavailable(f"{card.file} is not a model that LiteRT can run.") from error
    outputs = {len(tensor.shape): (at, tensor) for at, tensor in enumerate(session.outputs)}
    source = check_shapes(card, session.inputs, {rank: t for rank, (_, t) in outputs.items()})
    lap()
    names = ("fetch", "import", "load")
    stages = {name: (b - a) * 1e3 for name, (a, b) in zip(names, pairwise(clock), strict=True)}
    grown = {name: b - a for name, (a, b) in zip(names, pairwise(sizes), strict=True)}
    scaling = zip(card.mean, card.std, strict=True)
    tables = [tensors.level_table(mean, std, source) for mean, std in scaling]
    return LoadedModel(card, path, session, tables, outputs, Lock(), stages, grown, on_trial)


def guarded(
    path: str, card: Card, on_trial: bool, first_run: bool = False
) -> AbstractContextManager[None]:
    """Return the trial-run guard of a model file; a null context without *on_trial*."""
    return trial_run.guard(path, card.sha256, first_run) if on_trial else nullcontext()


def check_shapes(card: Card, inputs: list[Tensor], outputs: dict[int, Tensor]) -> Tensor:
    """Check the shapes of input and outputs (by their number of dimensions) against the card.

    Returns: the input.
    Raises: ModelUnavailable.
    """
    expected = [1, *decoding.sides(card.side_px), CHANNELS[card.channels]]
    found = [list(tensor.shape) for tensor in inputs]
    if found != [expected]:
        shapes = " and ".join(map(str, found)) or "nothing"
        raise ModelUnavailable(f"{card.file} takes {shapes}; its card says {expected}.")
    logits = list(outputs[LOGITS].shape) if LOGITS in outputs else []
    labels = len(card.labels)
    if logits != [1, 1 if card.output == "sigmoid" else labels]:
        raise ModelUnavailable(f"{card.file} gives {logits}; its card has {labels} labels.")
    if card.not_skin_above is not None and OOD_SCORES not in outputs:
        raise ModelUnavailable(
            f"{card.file} has no distance output, which the card's thresholds.not_skin needs."
        )
    scores = outputs[OOD_SCORES].shape if OOD_SCORES in outputs else ()
    if card.not_dermoscopic_above is not None and scores != (2,):
        raise ModelUnavailable(
            f"{card.file} has no clinical score beside its distance, which the card's "
            "thresholds.not_dermoscopic needs."
        )
    return inputs[0]

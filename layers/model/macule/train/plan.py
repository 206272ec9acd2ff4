"""The hyperparameters of the recipe."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Log = Callable[[str], None]


class TrainingPlan(NamedTuple):
    """The hyperparameters; `side_px` is the size of the crops."""

    side_px: int = 224
    epochs: int = 16
    batch: int = 32
    rate: float = 3e-4
    decay: float = 0.02  # weight decay per step at the full learning rate
    dropout: float = 0.3
    smoothing: float = 0.05
    mixing: float = 0.2  # parameter of the beta distribution of MixUp, 0 for none
    memory: float = 0.995  # momentum of the moving average of the weights
    seed: int = 0


def keep(plan: TrainingPlan, work: Path) -> None:
    """Write *plan* into *work*, or check that the results there are of the same plan.

    Raises: ValueError if they are not.
    """
    path = work / "plan.json"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plan._asdict()))
    elif (known := json.loads(path.read_text())) != plan._asdict():
        raise ValueError(
            f"{work} was started with {known}: use another --work, or the same options"
        )

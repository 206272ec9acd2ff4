"""Fine-tuning of a backbone and its head, which can be interrupted and continued."""

import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.train import augmentation
from macule.train.data import LabelledImages

Scaling = tuple[tuple[float, ...], tuple[float, ...]]
Log = Callable[[str], None]


class TrainingPlan(NamedTuple):
    """The hyperparameters; `side_px` is the size of the crops."""

    side_px: int = 224
    epochs: int = 20
    batch: int = 32
    rate: float = 2e-4
    decay: float = 0.02  # weight decay per step at the full learning rate
    dropout: float = 0.3
    smoothing: float = 0.05
    memory: float = 0.995  # momentum of the moving average of the weights


def fine_tune(
    body: Any,
    training: LabelledImages,
    scaling: Scaling,
    classes: int,
    plan: TrainingPlan,
    seed: int,
    folder: Path,
    log: Log,
) -> Any:
    """Train *body* with a new head; a checkpoint in *folder* is written after each epoch.

    Returns: the trained model, (n, side_px, side_px, 3), scaled, to logits. Its weights are the
    moving average.
    """
    import keras

    checkpoint = folder / "state.keras"
    if checkpoint.exists():
        model, done = keras.models.load_model(checkpoint), read_progress(folder, plan)
        log(f"continuing after epoch {done}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(seed)
        model, done = build_model(body, classes, plan, len(training.truth)), 0
    weights = class_weights(training.truth, classes)
    for epoch in range(done, plan.epochs):
        start = time.monotonic()
        dataset = augmented_batches(training, weights, scaling, plan, (seed, epoch))
        history = model.fit(dataset, verbose=0, shuffle=False).history
        figures = {"epoch": epoch + 1} | {key: history[key][0] for key in ("loss", "accuracy")}
        append_row(folder / "curves.csv", figures)
        model.save(checkpoint)
        (folder / "done.json").write_text(json.dumps({"done": epoch + 1} | plan._asdict()))
        left = (time.monotonic() - start) * (plan.epochs - epoch - 1) / 60
        log(
            f"epoch {epoch + 1} of {plan.epochs}: loss {figures['loss']:.3f},"
            f" accuracy {figures['accuracy']:.3f}, {left:.0f} min left"
        )
    model.optimizer.finalize_variable_values(model.trainable_variables)
    return model


def read_progress(folder: Path, plan: TrainingPlan) -> int:
    """Return the number of completed epochs of the checkpoint in *folder*.

    Raises: ValueError if it was trained with other hyperparameters.
    """
    plan_dict = json.loads((folder / "done.json").read_text())
    done = int(plan_dict.pop("done"))
    if plan_dict != plan._asdict():
        raise ValueError(
            f"{folder} was started with {plan_dict}: use another --work, or the same options"
        )
    return done


def build_model(body: Any, classes: int, plan: TrainingPlan, images: int) -> Any:
    """Add pooling, dropout and a Dense head to *body*, and compile it."""
    import keras

    pooled = keras.layers.GlobalAveragePooling2D()(body.output)
    dropped = keras.layers.Dropout(plan.dropout)(pooled)
    model = keras.Model(body.input, keras.layers.Dense(classes, name="head")(dropped))
    steps = -(-images // plan.batch) * plan.epochs
    rate = keras.optimizers.schedules.CosineDecay(
        plan.rate / 10, steps - steps // 20, warmup_target=plan.rate, warmup_steps=steps // 20
    )
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=plan.decay, global_clipnorm=1.0, use_ema=True, ema_momentum=plan.memory
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    loss = keras.losses.CategoricalCrossentropy(True, plan.smoothing)
    model.compile(optimizer, loss, weighted_metrics=[], metrics=["accuracy"])
    return model


def class_weights(truth: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Return class weights: square root of the inverse frequency, mean 1 over the images."""
    counts = np.maximum(np.bincount(truth, minlength=classes), 1)
    weights = 1 / np.sqrt(counts)
    return np.asarray(weights / weights[truth].mean(), np.float32)


def augmented_batches(
    images: LabelledImages,
    weights: NDArray[np.float32],
    scaling: Scaling,
    plan: TrainingPlan,
    seed: tuple[int, ...],
) -> Any:
    """Return one epoch of augmented batches: scaled pixels, one-hot truth, sample weights.

    The batches are deterministic for a *seed*.
    """
    import tensorflow as tf

    classes, (mean, std) = len(weights), (np.asarray(part, np.float32) for part in scaling)

    def draw() -> Iterator[tuple[Any, Any, Any]]:
        random = np.random.default_rng(seed)
        order = random.permutation(len(images.truth))
        for start in range(0, len(order), plan.batch):
            chosen = order[start : start + plan.batch]
            truth, pixels = images.truth[chosen], images.pixels[chosen]
            marked = np.stack([augmentation.add_artefacts(image, random) for image in pixels])
            crops = augmentation.random_crop(marked, plan.side_px, random)
            scaled = (augmentation.jitter_colour(crops, random) - mean) / std
            yield scaled, np.eye(classes, dtype=np.float32)[truth], weights[truth]

    signature = (
        tf.TensorSpec((None, plan.side_px, plan.side_px, 3), tf.float32),
        tf.TensorSpec((None, classes), tf.float32),
        tf.TensorSpec((None,), tf.float32),
    )
    count = -(-len(images.truth) // plan.batch)
    dataset = tf.data.Dataset.from_generator(draw, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)


def append_row(path: Path, figures: dict[str, Any]) -> None:
    """Append a row to a CSV file; a new file gets a header."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, figures)
        if is_new:
            writer.writeheader()
        writer.writerow(figures)


def collect_curves(folder: Path, path: Path) -> None:
    """Write the curves of all seeds in *folder* to one CSV file."""
    path.unlink(missing_ok=True)
    for curves in sorted(folder.glob("seed-*/curves.csv")):
        with curves.open(newline="") as file:
            for row in csv.DictReader(file):
                append_row(path, {"seed": curves.parent.name.removeprefix("seed-")} | row)

"""Fine-tuning of the upper layers and a head, which can be interrupted and continued."""

import csv
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import metrics
from macule.train.images.views import View
from macule.train.plan import Log, TrainingPlan

EPOCHS = "epochs.json"  # beside the checkpoint


def fine_tune(
    upper: Any,
    views: Sequence[View],
    truth: NDArray[np.int64],
    members: NDArray[np.int64],
    plan: TrainingPlan,
    folder: Path,
    log: Log,
) -> Any:
    """Train *upper* with a new head; a checkpoint in *folder* is written after each epoch.

    Args:
      upper: Keras model from a view to feature maps (n, h, w, features).
      views: for each epoch one view of every image.
      truth: (n,), of every image.
      members: the images to train on.

    Returns: the trained model, from a view to logits. Its weights are the moving average.
    """
    import keras

    checkpoint, done = folder / "state.keras", count_epochs(folder)
    classes = int(truth.max()) + 1
    if done:
        model = keras.models.load_model(checkpoint)
        log(f"continuing after epoch {done}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(plan.seed)
        model = build_model(upper, classes, plan, len(members))
    weights = class_weights(truth[members], classes)
    for epoch in range(done, plan.epochs):
        start = time.monotonic()
        batches = mixed_batches(views[epoch], truth, members, weights, plan, epoch)
        history = model.fit(batches, verbose=0, shuffle=False).history
        figures = {"epoch": epoch + 1} | {key: history[key][0] for key in ("loss", "accuracy")}
        append_row(folder / "curves.csv", figures)
        model.save(checkpoint)
        (folder / EPOCHS).write_text(json.dumps(epoch + 1))
        left = (time.monotonic() - start) * (plan.epochs - epoch - 1) / 60
        log(
            f"epoch {epoch + 1} of {plan.epochs}: loss {figures['loss']:.3f},"
            f" accuracy {figures['accuracy']:.3f}, {left:.0f} min left"
        )
    model.optimizer.finalize_variable_values(model.trainable_variables)
    return model


def count_epochs(folder: Path) -> int:
    """Return the number of finished epochs of the checkpoint in *folder*."""
    path = folder / EPOCHS
    return int(json.loads(path.read_text())) if path.exists() else 0


def build_model(upper: Any, classes: int, plan: TrainingPlan, images: int) -> Any:
    """Add pooling, dropout and a Dense head to *upper*, and compile it."""
    import keras

    pooled = keras.layers.GlobalAveragePooling2D()(upper.output)
    dropped = keras.layers.Dropout(plan.dropout, seed=plan.seed)(pooled)
    model = keras.Model(upper.input, keras.layers.Dense(classes, name="head")(dropped))
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


def class_weights(truth: metrics.Ints, classes: int) -> NDArray[np.float32]:
    """Return class weights: square root of the inverse frequency, mean 1 over the images."""
    counts = np.maximum(np.bincount(truth, minlength=classes), 1)
    weights = 1 / np.sqrt(counts)
    return np.asarray(weights / weights[truth].mean(), np.float32)


def mixed_batches(
    views: View,
    truth: NDArray[np.int64],
    members: NDArray[np.int64],
    weights: NDArray[np.float32],
    plan: TrainingPlan,
    epoch: int,
) -> Any:
    """Return one epoch of batches: mixed views, mixed one-hot truth, sample weights.

    The batches are deterministic for the seed of *plan* and *epoch*.
    Source: manifold MixUp, Verma et al. 2019, arXiv 1806.05236, at the lowest trained layer.
    """
    import tensorflow as tf

    one_hot = np.eye(len(weights), dtype=np.float32)

    def draw() -> Iterator[tuple[Any, Any, Any]]:
        random = np.random.default_rng((plan.seed, epoch, len(members)))
        order = random.permutation(members)
        for start in range(0, len(order), plan.batch):
            chosen = order[start : start + plan.batch]
            features = views[chosen].astype(np.float32)
            targets, importance = one_hot[truth[chosen]], weights[truth[chosen]]
            if plan.mixing:
                share = random.beta(plan.mixing, plan.mixing, len(chosen)).astype(np.float32)
                features = mix(features, share[:, None, None, None])
                targets, importance = mix(targets, share[:, None]), mix(importance, share)
            yield features, targets, importance

    signature = (
        tf.TensorSpec((None, *views.shape[1:]), tf.float32),
        tf.TensorSpec((None, len(weights)), tf.float32),
        tf.TensorSpec((None,), tf.float32),
    )
    count = -(-len(members) // plan.batch)
    dataset = tf.data.Dataset.from_generator(draw, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)


def mix(values: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mix each item with the next one of the batch; *share* of the item itself stays."""
    return share * values + (1 - share) * np.roll(values, 1, axis=0)


def append_row(path: Path, figures: dict[str, Any]) -> None:
    """Append a row to a CSV file; a new file gets a header."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, figures)
        if is_new:
            writer.writeheader()
        writer.writerow(figures)


def collect_curves(folder: Path, path: Path) -> None:
    """Write the curves of all runs in *folder* to one CSV file."""
    path.unlink(missing_ok=True)
    for curves in sorted(folder.glob("*/curves.csv")):
        with curves.open(newline="") as file:
            for row in csv.DictReader(file):
                append_row(path, {"run": curves.parent.name} | row)

"""Grad-CAM by a GradientTape, the reference for the maps in the file."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from macule.convert.graph.frozen_graph import IMAGE, FrozenGraph, import_subgraph
from macule.convert.graph.head import Head

MIN_CORRELATION = 0.99
# With 1,000 classes, the comparison would take a minute.
MAX_CLASSES = 16


def compare(
    frozen: FrozenGraph,
    head: Head,
    logits: str,
    images: NDArray[np.float32],
    maps: NDArray[np.float32],
) -> dict[str, Any]:
    """Compare *maps* (n, h, w, classes) from LiteRT with Grad-CAM by a GradientTape.

    Grad-CAM is taken before its ReLU, times h * w like the maps, for at most MAX_CLASSES. After
    Flatten, each position has its own weights, which Grad-CAM averages. `attribution` is then the
    correlation with gradient times feature at each position, the exact contribution.
    """
    expected, exact = gradcam_maps(frozen, head.features.name, logits, images)
    if maps.shape[3] == 2 and expected.shape[1] == 1:
        expected, exact = (np.concatenate([-side, side], axis=1) for side in (expected, exact))
    ours = np.moveaxis(maps, 3, 1)[:, : expected.shape[1]]
    lowest = min(correlation(a, b) for a, b in zip(ours, expected, strict=True))
    facts = {
        "faithful": lowest >= MIN_CORRELATION,
        "head": head.chain,
        "max_error": float(np.abs(ours - expected).max()),
        "correlation": round(lowest, 6),
    }
    if "flatten" in head.pools:
        agreement = min(correlation(a, b) for a, b in zip(ours, exact, strict=True))
        facts["attribution"] = round(agreement, 6)
        facts["note"] = (
            "the head has weights for each position, and Grad-CAM averages them: the correlation "
            f"of the maps with gradient times feature is {agreement:.2f}"
        )
    return facts


def gradcam_maps(
    frozen: FrozenGraph,
    features: str,
    logits: str,
    images: NDArray[np.float32],
    units: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute Grad-CAM by a GradientTape over the head of the model.

    Args:
      units: the output unit for each image; default: the first MAX_CLASSES units.

    Returns: Grad-CAM before its ReLU, times h * w, and the sum over channels of gradient times
      feature at each position: both (n, units, h, w).
    """
    import tensorflow as tf

    def body(image: Any) -> Any:
        return import_subgraph(frozen.definition, {f"{IMAGE}:0": image}, [features], "")[0]

    def tail(maps: Any) -> Any:
        row = import_subgraph(frozen.definition, {features: maps}, [logits], "")[0]
        return tf.reshape(row, (-1,))

    shape = tf.TensorSpec((1, *frozen.shape))
    run_body = tf.function(body, input_signature=[shape], autograph=False)
    answer = tf.function(tail, autograph=False)
    pooled, exact = [], []
    for place, image in enumerate(images):
        maps = run_body(tf.constant(image[None]))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(maps)
            row = tf.unstack(answer(maps))
        wanted = row[:MAX_CLASSES] if units is None else [row[units[place]]]
        slopes = np.stack([tape.gradient(logit, maps)[0].numpy() for logit in wanted])
        found = np.asarray(maps[0], np.float64)
        pooled.append((found * slopes.sum(axis=(1, 2), keepdims=True)).sum(-1))
        exact.append((found * slopes).sum(-1))
    return np.stack(pooled), np.stack(exact)


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the correlation of two sets of maps; 1 if both are constant."""
    if np.ptp(a) < 1e-9 and np.ptp(b) < 1e-9:
        return 1.0
    if np.ptp(a) < 1e-9 or np.ptp(b) < 1e-9:
        return 0.0
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

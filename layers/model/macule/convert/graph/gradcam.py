"""Grad-CAM by a GradientTape over the model's own head: what the maps in the file must equal."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from macule.convert.graph.frozen_graph import IMAGE, FrozenGraph, import_subgraph
from macule.convert.graph.head import Head

MIN_CORRELATION = 0.99
# Enough to tell; a network of 1,000 classes would take a minute.
MAX_CLASSES = 16


def compare(
    frozen: FrozenGraph,
    head: Head,
    logits: str,
    images: NDArray[np.float32],
    maps: NDArray[np.float32],
) -> dict[str, Any]:
    """Compare *maps* (n, h, w, classes), as LiteRT made them, with Grad-CAM by a GradientTape.

    Grad-CAM is taken before its ReLU, times h * w as the maps are, on at most MOST_CLASSES. After
    Flatten each place has weights of its own, which Grad-CAM averages: `attribution` is then the
    correlation with gradient times feature at every place, which is what the head truly read.
    """
    expected, exact = gradcam_maps(frozen, head.features.name, logits, images)
    if maps.shape[3] == 2 and expected.shape[1] == 1:
        expected, exact = (np.concatenate([-side, side], axis=1) for side in (expected, exact))
    drawn = np.moveaxis(maps, 3, 1)[:, : expected.shape[1]]
    closeness = min(correlation(a, b) for a, b in zip(drawn, expected, strict=True))
    facts = {
        "faithful": closeness >= MIN_CORRELATION,
        "head": head.chain,
        "max_error": float(np.abs(drawn - expected).max()),
        "correlation": round(closeness, 6),
    }
    if "flatten" in head.pools:
        agreement = min(correlation(a, b) for a, b in zip(drawn, exact, strict=True))
        facts["attribution"] = round(agreement, 6)
        facts["note"] = (
            "the head has weights for each place, and Grad-CAM averages them: what it read there "
            f"correlates {agreement:.2f} with the maps"
        )
    return facts


def gradcam_maps(
    frozen: FrozenGraph,
    features: str,
    logits: str,
    images: NDArray[np.float32],
    units: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take Grad-CAM by a GradientTape over the model's own head.

    Args:
      units: of each image, the one whose map is wanted; without it the first MOST_CLASSES.

    Returns: per image and unit Grad-CAM before its ReLU, times h * w, and the sum over channels of
      gradient times feature at every place: both (n, units, h, w).
    """
    import tensorflow as tf

    def body(image: Any) -> Any:
        return import_subgraph(frozen.definition, {f"{IMAGE}:0": image}, [features], "")[0]

    def tail(maps: Any) -> Any:
        return tf.reshape(
            import_subgraph(frozen.definition, {features: maps}, [logits], "")[0], (-1,)
        )

    shape = tf.TensorSpec((1, *frozen.shape))
    see = tf.function(body, input_signature=[shape], autograph=False)
    answer = None
    pooled, exact = [], []
    for place, image in enumerate(images):
        maps = see(tf.constant(image[None]))
        answer = answer or tf.function(
            tail, input_signature=[tf.TensorSpec(maps.shape)], autograph=False
        )
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
    """Correlation of two sets of maps; 1 where neither varies."""
    if np.ptp(a) < 1e-9 and np.ptp(b) < 1e-9:
        return 1.0
    if np.ptp(a) < 1e-9 or np.ptp(b) < 1e-9:
        return 0.0
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

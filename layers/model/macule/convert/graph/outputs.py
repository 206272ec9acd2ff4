"""The outputs to export from a frozen graph: logits, activation maps, OOD score."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.graph import frozen_graph, head, inspection, out_of_distribution


class ExportPlan(NamedTuple):
    """A graph, its output, and its head; without a head, `why` is the reason.

    `ood`: a tensor of feature maps and the OOD scorer for its pooled features; None without
    in-distribution images.
    """

    frozen: frozen_graph.FrozenGraph
    loaded: frozen_graph.LoadedGraph
    output: inspection.Output
    head: head.Head | None
    why: str
    ood: tuple[str, out_of_distribution.OODScorer] | None = None

    @property
    def logits(self) -> Any:
        """The tensor of the logits; the output itself if the logits are not available."""
        return self.loaded.graph.get_tensor_by_name(self.output.logits or self.frozen.output)


def fit_ood(plan: ExportPlan, images: NDArray[np.float32]) -> ExportPlan:
    """Fit the OOD scorer on *images* (n, h, w, c), in the range of the model."""
    layer = find_ood_layer(plan.loaded)
    if layer is None or len(images) < out_of_distribution.MIN_IMAGES:
        return plan
    features = pooled_features(plan, layer.name, images)
    return plan._replace(ood=(layer.name, out_of_distribution.fit(features)))


def find_ood_layer(loaded: frozen_graph.LoadedGraph) -> Any | None:
    """Find the last feature maps before the network reduces their size for the last time.

    The last features separate the classes but not out-of-distribution images; these maps separate
    both (docs/decisions.md).
    """
    maps = [
        tensor
        for operation in loaded.graph.get_operations()
        for tensor in operation.outputs
        if frozen_graph.depends_on_image(loaded, tensor) and tensor.dtype.is_floating
        if tensor.shape.rank == 4 and tensor.shape[1] and tensor.shape[2]
    ]
    areas = [tensor.shape[1] * tensor.shape[2] for tensor in maps]
    least = min((area for area in areas if area > 1), default=0)
    larger = [tensor for tensor, area in zip(maps, areas, strict=True) if area >= 2 * least]
    return larger[-1] if larger and larger[-1].name != loaded.image.name else None


def pooled_features(
    plan: ExportPlan, name: str, images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Run the graph on each image; returns the spatial means (n, d) of the maps *name*."""
    import tensorflow as tf

    def pool(image: Any) -> Any:
        given = {f"{frozen_graph.IMAGE}:0": image}
        (maps,) = frozen_graph.import_subgraph(plan.frozen.definition, given, [name], "")
        return tf.reduce_mean(maps, [1, 2])

    shape = tf.TensorSpec((1, *plan.frozen.shape))
    run = tf.function(pool, input_signature=[shape], autograph=False)
    return np.concatenate([run(tf.constant(image[None])).numpy() for image in images])


def make_plan(frozen: frozen_graph.FrozenGraph, opaque: bool = False) -> ExportPlan:
    """Find the output and the head of a frozen graph.

    *opaque*: the probabilities do not come from a single softmax operator.
    """
    loaded = frozen_graph.load_graph(frozen)
    output = inspection.find_output(loaded)
    if opaque or output.logits is None:
        output = output._replace(kind="softmax", logits=None)
        why = "its output does not come from a plain softmax"
        return ExportPlan(frozen, loaded, output, None, why)
    try:
        found = head.find_head(loaded, loaded.graph.get_tensor_by_name(output.logits))
    except head.UnsupportedHead as error:
        return ExportPlan(frozen, loaded, output, None, str(error))
    return ExportPlan(frozen, loaded, output, found, "")

"""What is to be made of a frozen graph: its logits, its maps, and how familiar an image is."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.graph import frozen_graph, head, inspection, out_of_distribution


class ExportPlan(NamedTuple):
    """A graph, its output, and its head; or why it has none that maps can be made for.

    `known`: the tensor at `midway`, and the scorer of known images in its features; None where none
    were given.
    """

    frozen: frozen_graph.FrozenGraph
    loaded: frozen_graph.LoadedGraph
    answer: inspection.Output
    head: head.Head | None
    why: str
    known: tuple[str, out_of_distribution.OODScorer] | None = None

    @property
    def logits(self) -> Any:
        """The tensor of the logits; the output itself where they cannot be told from it."""
        return self.loaded.graph.get_tensor_by_name(self.output.logits or self.frozen.output)


def fit_ood(plan: ExportPlan, images: NDArray[np.float32]) -> ExportPlan:
    """Learn what is familiar from *images* (n, h, w, c), in the range that the model takes."""
    tap = find_ood_layer(plan.loaded)
    if tap is None or len(images) < out_of_distribution.MIN_IMAGES:
        return plan
    return plan._replace(
        ood=(tap.name, out_of_distribution.fit(pooled_features(plan, tap.name, images)))
    )


def find_ood_layer(loaded: frozen_graph.LoadedGraph) -> Any | None:
    """Find the last feature maps before the network halves them for the last time.

    The last features tell classes apart and little else; these still know what is no skin
    (docs/decisions.md has both).
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
    """Run the graph on each image; returns the means (n, d) of the maps *name*."""
    import tensorflow as tf

    def see(image: Any) -> Any:
        given = {f"{frozen_graph.IMAGE}:0": image}
        return tf.reduce_mean(
            frozen_graph.import_subgraph(plan.frozen.definition, given, [name], "")[0], [1, 2]
        )

    shape = tf.TensorSpec((1, *plan.frozen.shape))
    run = tf.function(see, input_signature=[shape], autograph=False)
    return np.concatenate([run(tf.constant(image[None])).numpy() for image in images])


def make_plan(frozen: frozen_graph.FrozenGraph, opaque: bool = False) -> ExportPlan:
    """Find the output and the head of a frozen graph.

    *opaque*: its probabilities were found to be made by no plain softmax.
    """
    loaded = frozen_graph.load_graph(frozen)
    answer = inspection.find_output(loaded)
    if opaque or answer.logits is None:
        answer = answer._replace(kind="softmax", logits=None)
        return ExportPlan(frozen, loaded, answer, None, "its output is made by no plain softmax")
    try:
        found = head.find_head(loaded, loaded.graph.get_tensor_by_name(answer.logits))
    except head.UnsupportedHead as error:
        return ExportPlan(frozen, loaded, answer, None, str(error))
    return ExportPlan(frozen, loaded, answer, found, "")

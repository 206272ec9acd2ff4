"""Frozen TensorFlow graphs: freeze a model, load a graph, import parts of it.

All models, from Keras 3, Keras 2 and SavedModels, are converted to this form.
"""

import gc
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IMAGE = "image"
# Their result depends only on shapes, which are known once the image shape is known.
SHAPE_OPS = {"Shape", "ShapeN", "Size", "Rank"}
IDENTITY_OPS = {
    "Identity",
    "IdentityN",
    "StopGradient",
    "PreventGradient",
    "CheckNumerics",
    "Snapshot",
}


class FrozenGraph(NamedTuple):
    """A graph whose weights are constants.

    `definition`: a GraphDef with the placeholder `image`, shape (1, height, width, channels).
    `output`: name of the output tensor.
    """

    definition: Any
    output: str
    shape: tuple[int, int, int]


class LoadedGraph(NamedTuple):
    """A frozen graph in a session; `image_dependent` are the operators that depend on the image."""

    graph: Any
    session: Any
    image: Any
    output: Any
    image_dependent: frozenset[str]


def freeze(run: Callable[[Any], Any], shape: tuple[int, int, int]) -> FrozenGraph:
    """Trace *run* for one image of *shape*, and convert its weights to constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2 as constants,
    )

    def traced(image: Any) -> Any:
        # Some Keras layer names are only valid in TensorFlow inside another scope.
        with tf.name_scope("model"):
            return tf.identity(run(image))

    wanted = tf.TensorSpec((1, *shape), tf.float32, IMAGE)
    frozen = constants(tf.function(traced, autograph=False).get_concrete_function(wanted))
    names = frozen.outputs[0].name, frozen.inputs[0].name
    definition = frozen.graph.as_graph_def()
    del frozen
    collect_garbage()
    return replace_input(definition, *names, shape)


def collect_garbage() -> None:
    """Release unused graphs: they have reference cycles that keep all weights in memory."""
    gc.collect()


def resize(frozen: FrozenGraph, shape: tuple[int, int, int]) -> FrozenGraph:
    """Change the image size of the graph.

    Raises: ValueError if an operator, such as a Dense layer after Flatten, has a fixed size.
    """
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef()
    definition.CopyFrom(frozen.definition)
    return replace_input(definition, frozen.output, f"{IMAGE}:0", shape)


def replace_input(
    definition: Any, output: str, image: str, shape: tuple[int, int, int]
) -> FrozenGraph:
    """Replace *image* with a placeholder of *shape*; this modifies *definition*."""
    import tensorflow as tf

    bodies = [body.node_def for body in definition.library.function]
    for node in (node for nodes in (definition.node, *bodies) for node in nodes):
        # shapes of the old size, and gradients of swish, which cannot be saved
        for key in ("_output_shapes", "_gradient_op_type"):
            node.attr.pop(key, None)
    names = [node.name for node in definition.node]
    del definition.node[names.index(image.split(":")[0])]
    with tf.Graph().as_default() as graph:
        pixels = tf.compat.v1.placeholder(tf.float32, (1, *shape), IMAGE)
        (output_tensor,) = tf.graph_util.import_graph_def(
            definition, {image: pixels}, return_elements=[output], name=""
        )
    return FrozenGraph(graph.as_graph_def(), output_tensor.name, shape)


def load_graph(frozen: FrozenGraph) -> LoadedGraph:
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(frozen.definition, name="")
    image = graph.get_tensor_by_name(f"{IMAGE}:0")
    image_dependent = {image.op.name}
    for operation in graph.get_operations():
        if operation.type in SHAPE_OPS and all(
            t.shape.is_fully_defined() for t in operation.inputs
        ):
            continue
        if any(tensor.op.name in image_dependent for tensor in operation.inputs):
            image_dependent.add(operation.name)
    session = tf.compat.v1.Session(graph=graph)
    output = graph.get_tensor_by_name(frozen.output)
    return LoadedGraph(graph, session, image, output, frozenset(image_dependent))


def depends_on_image(loaded: LoadedGraph, tensor: Any) -> bool:
    return tensor.op.name in loaded.image_dependent


def constant_value(loaded: LoadedGraph, tensor: Any) -> NDArray[Any]:
    """Evaluate a tensor that does not depend on the pixels of the image."""
    return constant_values(loaded, [tensor])[0]


def constant_values(loaded: LoadedGraph, tensors: list[Any]) -> list[NDArray[Any]]:
    """Evaluate several such tensors at once."""
    blank = np.zeros(loaded.image.shape.as_list(), np.float32)
    found = loaded.session.run(tensors, {loaded.image: blank})
    return [np.asarray(array) for array in found]


def skip_identities(tensor: Any) -> Any:
    """Follow *tensor* back over operators that do not change it."""
    while tensor.op.type in IDENTITY_OPS:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def weight_tensors(loaded: LoadedGraph) -> dict[str, Any]:
    """Return the constant operands of image-dependent operators, by name."""
    found = {}
    for name in loaded.image_dependent:
        for tensor in loaded.graph.get_operation_by_name(name).inputs:
            if not depends_on_image(loaded, tensor) and tensor.dtype.is_floating:
                found[tensor.name] = tensor
    return found


def weight_bytes(loaded: LoadedGraph) -> int:
    """Return the size of the weights as float32."""
    return 4 * sum(tensor.shape.num_elements() or 0 for tensor in weight_tensors(loaded).values())


def import_subgraph(
    definition: Any, given: dict[str, Any], wanted: list[str], scope: str
) -> list[Any]:
    """Import the part of *definition* between tensors *given* and *wanted*."""
    import tensorflow as tf

    part = extract_subgraph(definition, given, (name.split(":")[0] for name in wanted))
    sources = {source for node in part.node for source in node.input}
    mapping = {name: given[name] for name in given if {name, name.removesuffix(":0")} & sources}
    return list(tf.graph_util.import_graph_def(part, mapping, return_elements=wanted, name=scope))


def extract_subgraph(definition: Any, given: Iterable[str], wanted: Iterable[str]) -> Any:
    """Extract the nodes that *wanted* needs, back to the tensors *given*."""
    import tensorflow as tf

    nodes = {node.name: node for node in definition.node}
    stops, needed, pending = set(given), set(), list(wanted)
    while pending:
        name = pending.pop()
        if name in needed:
            continue
        needed.add(name)
        for source in nodes[name].input:
            control = source.startswith("^")
            full = source if ":" in source else f"{source}:0"
            if not control and full not in stops:
                pending.append(full.split(":")[0])
    part = tf.compat.v1.GraphDef()
    part.versions.CopyFrom(definition.versions)
    for node in definition.node:
        if node.name in needed:
            copy = part.node.add()
            copy.CopyFrom(node)
            # control edges order side effects; a frozen graph has none
            inputs = [source for source in copy.input if not source.startswith("^")]
            del copy.input[:]
            copy.input.extend(inputs)
    if definition.library.function:
        part.library.CopyFrom(definition.library)
    return part

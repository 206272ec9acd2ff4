"""Security checks of an untrusted model, before it is loaded: code, files and large arrays."""

import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from macule.convert.errors import BadInput
from macule.convert.source.file_format import damaged

# Layers that contain code, load files or wrap other frameworks. None is needed for images.
UNSAFE_LAYERS = {
    "ClassMethod",
    "FlaxLayer",
    "HashedCrossing",
    "InstanceMethod",
    "InstanceProperty",
    "IntegerLookup",
    "JaxLayer",
    "Lambda",
    "StringLookup",
    "TFSMLayer",
    "TextVectorization",
    "TorchModuleWrapper",
}
KERAS_MODULES = re.compile(r"(tf_|tensorflow\.(python\.)?)?keras(\.|$)|builtins$")
# Functions that a config can name without a class; Keras resolves them by module.
KERAS_FUNCTIONS = re.compile(
    r"builtins$|.*\.(activations|initializers|losses|metrics|regularizers)"
)
# A TFOpLambda can name any TensorFlow function, such as `io.write_file`; these only compute.
SAFE_TF_FUNCTIONS = re.compile(
    r"(math|nn|image|linalg|__operators__)\.[a-z_0-9.]+$|(cast|clip_by_value|concat|convert_to_tensor"
    r"|expand_dims|gather|identity|keras\.backend\.[a-z_0-9]+|ones_like|pad|repeat|reshape|reverse"
    r"|shape|slice|split|squeeze|stack|strided_slice|tile|transpose|unstack|where|zeros_like)$"
)
# Functional models of TensorFlow 2.0 to 2.3 have arithmetic as raw operators.
SAFE_RAW_OPS = {"Add", "AddV2", "BiasAdd", "Cast", "Mul", "RealDiv", "Sub", "StridedSlice"}
SAFE_RAW_OPS |= {"ReverseV2", "ResizeBilinear", "ResizeNearestNeighbor", "Reshape", "Relu"}
# Every SavedModel contains save and restore; other operators for files or Python are not needed.
CHECKPOINT_OPS = {"ShardedFilename", "MergeV2Checkpoints", "SaveV2", "RestoreV2"}
UNSAFE_OPS = re.compile(
    r"PyFunc|File|Dataset|Iterator|ImmutableConst|Rpc|Debug|Summary|Restore|Save|Checkpoint"
    r"|^Print|CustomCall|Python"
)
MAX_ARRAY_BYTES = 2**32


def check_archive(path: Path) -> dict[str, Any]:
    """Check a `.keras` archive and return its config.

    Raises: BadInput.
    """
    name = path.name
    try:
        with zipfile.ZipFile(path) as opened:
            for member in opened.namelist():
                if member.startswith(("/", "\\")) or ".." in Path(member).parts:
                    raise BadInput(
                        f"{name} would write outside its folder ({member}): do not use it; "
                        "get the model from its author."
                    )
            document = json.loads(opened.read("config.json"))
            if "model.weights.h5" not in opened.namelist():
                raise BadInput(f"{name} contains no weights: save it again with model.save().")
            if opened.testzip() is not None:
                raise BadInput(f"{name} is damaged: download or save it again.")
            with opened.open("model.weights.h5") as weights:
                check_arrays(name, weights)
    except BadInput:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise damaged(name) from error
    check_config(name, document)
    return dict(document)


def check_h5(path: Path) -> dict[str, str]:
    """Check an `.h5` file and return its root attributes as text.

    Raises: BadInput.
    """
    import h5py

    name = path.name
    try:
        check_arrays(name, path)
        with h5py.File(path, "r") as file:
            attributes = {
                key: value.decode() if isinstance(value, bytes) else str(value)
                for key, value in file.attrs.items()
            }
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError) as error:
        raise damaged(name) from error
    if "model_config" not in attributes:
        raise BadInput(
            f"{name} contains weights without their network: load them into the model "
            "that they were trained in, and save it with model.save()."
        )
    try:
        document = json.loads(attributes["model_config"])
    except ValueError as error:
        raise BadInput(f"{name} has a damaged model_config: save it again.") from error
    check_config(name, document)
    return attributes


def check_arrays(name: str, file: Any) -> None:
    """Reject arrays that refer to other files, or are too large."""
    import h5py

    def check_group(group: Any) -> None:
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise BadInput(f"{name} reads another file ({link.filename}): do not use it.")
            if isinstance(link, h5py.SoftLink):
                continue
            item = group[key]
            if isinstance(item, h5py.Group):
                check_group(item)
            elif item.external or item.is_virtual:
                raise BadInput(f"{name} reads arrays from other files: do not use it.")
            elif item.nbytes > MAX_ARRAY_BYTES:
                raise BadInput(f"{name} has an array of {item.nbytes} bytes: it is too large.")

    with h5py.File(file, "r") as opened:
        check_group(opened)


def check_config(name: str, document: object) -> None:
    """Reject a Keras config with code, files or classes that are not part of Keras."""
    for part in iterate_objects(document):
        kind, module = str(part.get("class_name", "")), part.get("module")
        if kind in UNSAFE_LAYERS:
            raise BadInput(
                f"{name} has a {kind} layer, whose code macule does not run: rebuild it with "
                "layers of Keras (Rescaling, Resizing, Dense, ...) and save it again, or save "
                "its graph with model.export()."
            )
        registered = str(part.get("registered_name") or "")
        # Keras 2.12 and later set a module for Keras classes; custom classes only have this name
        custom = bool(registered) and (module is None or ">" in registered)
        if custom or (isinstance(module, str) and not KERAS_MODULES.match(module)):
            raise BadInput(custom_class_message(name, registered.split(">")[-1] or kind))
        if kind == "function" and isinstance(module, str) and not KERAS_FUNCTIONS.match(module):
            raise BadInput(custom_class_message(name, str(part.get("config"))))
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            inner = part.get("config")
            called = str(inner.get("function") if isinstance(inner, dict) else "")
            if not SAFE_TF_FUNCTIONS.match(called):
                raise BadInput(
                    f"{name} calls tf.{called}, which is not needed to classify images: rebuild "
                    "it with layers of Keras and save it again."
                )
        if kind == "TensorFlowOpLayer":
            operators = re.findall(r'op\W+"(\w+)', json.dumps(part.get("config")).replace("\\", ""))
            if len(operators) != 1 or operators[0] not in SAFE_RAW_OPS:
                raise BadInput(custom_class_message(name, operators[0] if operators else kind))


def custom_class_message(name: str, what: str) -> str:
    """Return the error message for a class that is not part of Keras."""
    return (
        f"{name} needs {what or 'a class'}, which is not part of Keras: rebuild the model with "
        "layers of Keras and save it again, or save its graph with model.export()."
    )


def iterate_objects(document: object) -> Iterator[dict[str, Any]]:
    """Yield all objects of a JSON document, at any depth."""
    pending = [document]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield item
            pending += item.values()
        elif isinstance(item, list):
            pending += item


def check_saved_model(path: Path) -> None:
    """Reject a SavedModel whose graph uses files or Python.

    A SavedModel is a graph of TensorFlow operators, without Python code. Loading it restores its
    variables, and later only its serving signature runs. Without the operators below, both can only
    compute. Every SavedModel contains save and restore operators; they are rejected if a callable
    function contains them.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((path / "saved_model.pb").read_bytes())
    except (DecodeError, OSError) as error:
        raise BadInput(
            f"{path.name}/saved_model.pb is incomplete: save the model again."
        ) from error
    if not saved.meta_graphs:
        raise BadInput(f"{path.name} contains no graph: save the model again with model.export().")
    found: set[str] = set()
    for meta in saved.meta_graphs:
        bodies = {body.signature.name: body.node_def for body in meta.graph_def.library.function}
        found |= {node.op for nodes in (meta.graph_def.node, *bodies.values()) for node in nodes}
        called = reachable_operators(bodies, meta.object_graph_def.concrete_functions)
        unsafe = sorted(called & CHECKPOINT_OPS) or sorted(
            filter(UNSAFE_OPS.search, found - CHECKPOINT_OPS)
        )
        if unsafe:
            raise BadInput(
                f"{path.name} uses {unsafe[0]}, which can access files or code outside the model: "
                "export it again with model.export(), with an image as the only input."
            )
    if "VarHandleOp" in found and not (path / "variables" / "variables.index").is_file():
        raise BadInput(f"{path.name} has no folder `variables`: copy the whole folder.")


def reachable_operators(bodies: dict[str, Any], starts: Iterable[str]) -> set[str]:
    """Return the operators of functions, and of the functions that they call."""
    found: set[str] = set()
    pending, visited = list(starts), set()
    while pending:
        name = pending.pop()
        if name in visited or name not in bodies:
            continue
        visited.add(name)
        for node in bodies[name]:
            found.add(node.op)
            inner = [attr.func.name for attr in node.attr.values()]
            inner += [part.name for attr in node.attr.values() for part in attr.list.func]
            pending += [node.op, *inner]
    return found

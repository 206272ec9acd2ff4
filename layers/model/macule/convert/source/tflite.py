"""Read, check and run an existing `.tflite`."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.errors import BadInput
from macule.convert.evaluation import batch_inference
from macule.inference.runtime import tensors


class TFLiteModel(NamedTuple):
    """A LiteRT file and its properties."""

    name: str
    content: bytes
    shape: tuple[int, int, int]
    units: int
    output: str
    precision: str
    weights_mb: float


def read_tflite(path: Path) -> TFLiteModel:
    """Read a `.tflite` classifier.

    Raises: BadInput.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    name, content = path.name, path.read_bytes()
    # a delegate would hide the operators that are inspected below
    bare = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        interpreter = Interpreter(
            model_content=content, num_threads=1, experimental_op_resolver_type=bare
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        first = " ".join(str(error).split())[:120]
        raise BadInput(
            f"{name} is damaged or needs operators that LiteRT does not support ({first}): "
            "download it again, or convert the original model."
        ) from error
    sources, targets = interpreter.get_input_details(), interpreter.get_output_details()
    shape = image_shape(name, sources)
    ood_score, logits = tensors.OOD_SCORES, tensors.LOGITS
    answers = [target for target in targets if len(target["shape"]) == logits]
    others = [target for target in targets if len(target["shape"]) not in (logits, ood_score)]
    units = int(answers[0]["shape"][1]) if len(answers) == 1 else 0
    maps = len(others) == 1 and len(others[0]["shape"]) == 4 and others[0]["shape"][3] == units
    if len(answers) != 1 or (others and not maps):
        shapes = ", ".join("x".join(map(str, target["shape"])) for target in targets)
        raise BadInput(
            f"{name} has outputs {shapes}, not one row of probabilities: use a classifier with "
            "one output (1, classes)."
        )
    last = producing_operator(interpreter, answers[0]["index"])
    output = {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}.get(last, "logits")
    details = interpreter.get_tensor_details()
    kind = detect_precision(sources[0], details)
    size = sum(int(np.prod(d["shape"])) for d in weight_tensors(interpreter, details)) * 4 / 2**20
    return TFLiteModel(name, content, shape, units, output, kind, size)


def image_shape(name: str, sources: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Return height, width and channels of the image input."""
    if len(sources) != 1:
        raise BadInput(
            f"{name} takes {len(sources)} inputs: a .tflite does not support constants: convert "
            "the original model with --constant."
        )
    (source,) = sources
    shape = [int(size) for size in source["shape"]]
    free = [int(size) for size in source.get("shape_signature", source["shape"])][1:]
    if len(shape) != 4 or shape[3] not in (1, 3) or shape[0] != 1:
        shown = "x".join(map(str, shape))
        raise BadInput(
            f"{name} takes {shown}, not one image (1, height, width, 1 or 3 channels): convert the "
            "original model."
        )
    if -1 in free:
        raise BadInput(f"{name} has no fixed image size: convert the original model with --side.")
    step = source["quantization"][0]
    if np.dtype(source["dtype"]).kind != "f" and not step:
        raise BadInput(
            f"{name} takes {np.dtype(source['dtype']).name} pixels without a scale: convert the "
            "original model."
        )
    return shape[1], shape[2], shape[3]


def producing_operator(interpreter: Any, index: int) -> str:
    """Return the operator of an output, before those that only change its type."""
    producers = {
        int(output): operation
        for operation in interpreter._get_ops_details()
        for output in operation["outputs"]
    }
    neutral = ("DEQUANTIZE", "QUANTIZE", "RESHAPE")
    while index in producers and producers[index]["op_name"] in neutral:
        index = int(producers[index]["inputs"][0])
    return str(producers[index]["op_name"]) if index in producers else ""


def weight_tensors(interpreter: Any, details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the weight tensors: neither inputs nor outputs of an operator."""
    operations = interpreter._get_ops_details()
    produced = {int(output) for operation in operations for output in operation["outputs"]}
    produced |= {int(source["index"]) for source in interpreter.get_input_details()}
    used = {int(index) for operation in operations for index in operation["inputs"]}
    return [detail for detail in details if detail["index"] in used - produced]


def detect_precision(source: dict[str, Any], details: list[dict[str, Any]]) -> str:
    """Detect the precision of a file: "int8", "fp16", "dynamic" or "fp32"."""
    kinds = {np.dtype(detail["dtype"]).name for detail in details if detail["dtype"] is not str}
    wide = [d for d in details if len(d["shape"]) == 4 and np.dtype(d["dtype"]).name == "float32"]
    narrow = [d for d in details if np.dtype(d["dtype"]).name in ("int8", "uint8")]
    if "float16" in kinds:
        return "fp16"
    if not narrow:
        return "fp32"
    activations = [d for d in narrow if len(d["shape"]) == 4 and d["shape"][0] == 1]
    is_integer = np.dtype(source["dtype"]).kind != "f"
    return "int8" if is_integer or len(activations) > len(wide) else "dynamic"


def run_model(lite: TFLiteModel, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the file on each image (h, w, c); returns its raw rank-2 output (n, units)."""
    return run_outputs(lite.content, images)[0]


def run_outputs(content: bytes, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Run a file on images (n, h, w, c) in its range; returns its logits and maps, if any."""
    identity = ((0.0,) * images.shape[3], (1.0,) * images.shape[3])
    rows = list(batch_inference.run_outputs(content, images, identity))
    return [
        np.stack([row[r] for row in rows]) for r in (tensors.LOGITS, tensors.MAPS) if r in rows[0]
    ]


def add_signature(content: bytes) -> bytes:
    """Add the signature that quantization and serving need, if the file has none."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter

    if Interpreter(model_content=content).get_signature_list():
        return content
    import flatbuffers

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    main = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey = b"serving_default"
    signature.subgraphIndex = 0
    signature.inputs, signature.outputs = [], []
    sides = ((signature.inputs, "image", main.inputs), (signature.outputs, "logits", main.outputs))
    for column, name, indices in sides:
        for place, index in enumerate(indices):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = f"{name}{place or ''}".encode(), index
            column.append(entry)
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())

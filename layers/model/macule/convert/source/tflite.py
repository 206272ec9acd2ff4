"""A `.tflite` that exists already: read, checked, run."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.errors import ConversionError
from macule.convert.evaluation import batch_inference


class TFLiteModel(NamedTuple):
    """A LiteRT file. `maps` is whether it has activation maps of its own beside the answer."""

    name: str
    content: bytes
    shape: tuple[int, int, int]
    units: int
    output: str
    maps: bool
    precision: str
    weights_mb: float


def read_tflite(path: Path) -> TFLiteModel:
    """Read a `.tflite` classifier.

    Raises: ConversionError.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    name, content = path.name, path.read_bytes()
    # a delegate would hide the operators that are looked at below
    bare = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        interpreter = Interpreter(
            model_content=content, num_threads=1, experimental_op_resolver_type=bare
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        first = " ".join(str(error).split())[:120]
        raise ConversionError(
            f"{name} is damaged or needs operators that LiteRT alone lacks ({first}): download it "
            "again, or convert the model it was made from."
        ) from error
    sources, targets = interpreter.get_input_details(), interpreter.get_output_details()
    shape = image_shape(name, sources)
    answers = [target for target in targets if len(target["shape"]) == 2]
    others = [
        target for target in targets if len(target["shape"]) not in (2, batch_inference.OOD_SCORE)
    ]
    units = int(answers[0]["shape"][1]) if len(answers) == 1 else 0
    maps = len(others) == 1 and len(others[0]["shape"]) == 4 and others[0]["shape"][3] == units
    if len(answers) != 1 or (others and not maps):
        shapes = ", ".join("x".join(map(str, target["shape"])) for target in targets)
        raise ConversionError(
            f"{name} has outputs {shapes}, not one row of probabilities: give a classifier with "
            "one output (1, classes)."
        )
    last = producing_operator(interpreter, answers[0]["index"])
    output = {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}.get(last, "logits")
    details = interpreter.get_tensor_details()
    kind = detect_precision(sources[0], details)
    size = sum(int(np.prod(d["shape"])) for d in weight_tensors(interpreter, details)) * 4 / 2**20
    return TFLiteModel(name, content, shape, units, output, maps, kind, size)


def image_shape(name: str, sources: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Height, width and channels of the one image that the file takes."""
    if len(sources) != 1:
        raise ConversionError(
            f"{name} takes {len(sources)} inputs: a .tflite cannot be given constants, so convert "
            "the model it was made from with --constant."
        )
    (source,) = sources
    shape = [int(size) for size in source["shape"]]
    free = [int(size) for size in source.get("shape_signature", source["shape"])][1:]
    if len(shape) != 4 or shape[3] not in (1, 3) or shape[0] != 1:
        shown = "x".join(map(str, shape))
        raise ConversionError(
            f"{name} takes {shown}, not one image (1, height, width, 1 or 3 channels): convert the "
            "model it was made from."
        )
    if -1 in free:
        raise ConversionError(
            f"{name} leaves its image size open: convert the model it was made from, with --side."
        )
    step = source["quantization"][0]
    if np.dtype(source["dtype"]).kind != "f" and not step:
        raise ConversionError(
            f"{name} takes {np.dtype(source['dtype']).name} pixels of no known scale: convert the "
            "model it was made from."
        )
    return shape[1], shape[2], shape[3]


def producing_operator(interpreter: Any, index: int) -> str:
    """Name of the operator that an output comes from, past those that only change its type."""
    makers = {
        int(output): operation
        for operation in interpreter._get_ops_details()
        for output in operation["outputs"]
    }
    while index in makers and makers[index]["op_name"] in ("DEQUANTIZE", "QUANTIZE", "RESHAPE"):
        index = int(makers[index]["inputs"][0])
    return str(makers[index]["op_name"]) if index in makers else ""


def weight_tensors(interpreter: Any, details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tensors that hold weights: no operator makes them, and they are no input."""
    operations = interpreter._get_ops_details()
    made = {int(output) for operation in operations for output in operation["outputs"]}
    made |= {int(source["index"]) for source in interpreter.get_input_details()}
    used = {int(index) for operation in operations for index in operation["inputs"]}
    return [detail for detail in details if detail["index"] in used - made]


def detect_precision(source: dict[str, Any], details: list[dict[str, Any]]) -> str:
    """Tell how a file computes: "int8", "fp16", "dynamic" or "fp32"."""
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
    """Run the file on each image (h, w, c); returns its rank-2 output (n, units) as it is."""
    return run_outputs(lite.content, images)[0]


def run_outputs(content: bytes, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Run a file on images (n, h, w, c) in its range; returns its logits and, if any, its maps."""
    still = ((0.0,) * images.shape[3], (1.0,) * images.shape[3])
    rows = list(batch_inference.run_outputs(content, images, still))
    return [
        np.stack([row[r] for row in rows])
        for r in (batch_inference.LOGITS, batch_inference.MAPS)
        if r in rows[0]
    ]


def add_signature(content: bytes) -> bytes:
    """Give a file of older converters the signature that quantizing and serving go by."""
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

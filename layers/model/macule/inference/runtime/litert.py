"""LiteRT's C API through ctypes: load a model file, run it, read its tensors. No numpy.

The wheel of ai-edge-litert has the library beside its Python bindings, which need numpy. The C API
changes within patch releases, so exactly one version is accepted.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
from ctypes import (
    POINTER,
    byref,
    c_char,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint,
    c_uint32,
    c_void_p,
)
from functools import cache
from struct import calcsize
from typing import Any, NamedTuple

PACKAGE, VERSION = "ai_edge_litert", "2.3.0"
FILES = ("libLiteRt.so", "libLiteRt.dylib", "libLiteRt.dll")
# litert/c/litert_common.h, litert_environment_options.h, litert_tensor_buffer_types.h
ACCELERATOR_CPU, OPTION_CPU_ONLY, OPTION_LOG_LEVEL, LOG_ERRORS, INTEGER = 1, 24, 25, 2, 2
LOCK_READ, LOCK_WRITE = 0, 1
PER_TENSOR = 1  # LiteRtQuantizationTypeId
# LiteRtElementType: the name and the struct code of those that models can use here
ELEMENTS = {1: ("float32", "f"), 3: ("uint8", "B"), 9: ("int8", "b")}


class Layout(ctypes.Structure):
    """LiteRtLayout of litert/c/litert_layout.h."""

    _fields_ = [
        ("rank", c_uint, 7),
        ("has_strides", c_uint, 1),
        ("dimensions", c_int32 * 8),
        ("strides", c_uint32 * 8),
    ]


class RankedTensorType(ctypes.Structure):
    """LiteRtRankedTensorType of litert/c/litert_model_types.h."""

    _fields_ = [("element_type", c_int), ("layout", Layout)]


class PerTensor(ctypes.Structure):
    """LiteRtQuantizationPerTensor of litert/c/litert_model_types.h."""

    _fields_ = [("scale", c_float), ("zero_point", c_int64)]


class Integer(ctypes.Structure):
    """LiteRtAny of litert/c/litert_any.h, holding an integer."""

    _fields_ = [("type", c_int), ("value", c_int64)]


class EnvOption(ctypes.Structure):
    """LiteRtEnvOption of litert/c/litert_environment_options.h."""

    _fields_ = [("tag", c_int), ("value", Integer)]


HANDLE, OUT = c_void_p, c_void_p  # an opaque object; the address of a result
# Argument types of the functions `LiteRt...`, by the header of litert/c that declares them. All
# return a LiteRtStatus, except Destroy.
SIGNATURES: dict[str, dict[str, list[Any]]] = {
    "litert_environment.h": {
        "CreateEnvironment": [c_int, POINTER(EnvOption), OUT],
        "DestroyEnvironment": [HANDLE],
    },
    "litert_model.h": {
        "CreateModelFromBuffer": [HANDLE, c_void_p, c_size_t, OUT],
        "DestroyModel": [HANDLE],
        "GetModelSubgraph": [HANDLE, c_size_t, OUT],
        "GetNumSubgraphInputs": [HANDLE, OUT],
        "GetNumSubgraphOutputs": [HANDLE, OUT],
        "GetSubgraphInput": [HANDLE, c_size_t, OUT],
        "GetSubgraphOutput": [HANDLE, c_size_t, OUT],
        "GetRankedTensorType": [HANDLE, OUT],
        "GetQuantizationTypeId": [HANDLE, OUT],
        "GetPerTensorQuantization": [HANDLE, OUT],
    },
    "litert_options.h": {
        "CreateOptions": [OUT],
        "SetOptionsHardwareAccelerators": [HANDLE, c_int],
        "AddOpaqueOptions": [HANDLE, HANDLE],
        "DestroyOptions": [HANDLE],
    },
    "litert_opaque_options.h": {
        "CreateOpaqueOptions": [c_char_p, c_void_p, c_void_p, OUT],
    },
    "litert_compiled_model.h": {
        "CreateCompiledModel": [HANDLE, HANDLE, HANDLE, OUT],
        "CompiledModelResizeInputTensor": [HANDLE, c_size_t, c_size_t, POINTER(c_int), c_size_t],
        "GetCompiledModelInputBufferRequirements": [HANDLE, c_size_t, c_size_t, OUT],
        "GetCompiledModelOutputBufferRequirements": [HANDLE, c_size_t, c_size_t, OUT],
        "RunCompiledModel": [HANDLE, c_size_t, c_size_t, OUT, c_size_t, OUT],
        "DestroyCompiledModel": [HANDLE],
    },
    "litert_tensor_buffer_requirements.h": {
        "GetTensorBufferRequirementsBufferSize": [HANDLE, OUT],
    },
    "litert_tensor_buffer.h": {
        "CreateManagedTensorBufferFromRequirements": [HANDLE, OUT, HANDLE, OUT],
        "LockTensorBuffer": [HANDLE, OUT, c_int],
        "UnlockTensorBuffer": [HANDLE],
        "DestroyTensorBuffer": [HANDLE],
    },
}


class LiteRtError(RuntimeError):
    """A function of LiteRT failed, or the library is missing or of another version."""


class Tensor(NamedTuple):
    """An input or output: its shape, dtype (a name in ELEMENTS), and quantization.

    A quantized value q stands for (q - zero_point) * scale; for float32, zero_point is 0 and scale
    1. `code` is the type code of `array`. `is_open`: the file leaves a dimension open.
    """

    shape: tuple[int, ...]
    dtype: str
    code: str
    scale: float
    zero_point: int
    is_open: bool

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * calcsize(self.code)


@cache
def library() -> Any:
    """Load the library of the installed package, once per process.

    Raises: LiteRtError if it is not there, or not of VERSION.
    """
    try:
        import ai_edge_litert as package
    except ImportError as error:
        raise LiteRtError(f"{PACKAGE} is not installed; install {PACKAGE}=={VERSION}.") from error
    if package.__version__ != VERSION:
        raise LiteRtError(
            f"{PACKAGE} is of version {package.__version__}; macule works with {VERSION} only, as "
            f"the C API changes between versions. Install {PACKAGE}=={VERSION}."
        )
    folder = os.path.dirname(package.__file__)
    path = next((p for name in FILES if os.path.exists(p := os.path.join(folder, name))), None)
    if path is None:
        raise LiteRtError(f"{folder} has no {FILES[0]}; install {PACKAGE}=={VERSION} again.")
    loaded = ctypes.CDLL(path)
    for functions in SIGNATURES.values():
        for name, types in functions.items():
            function = getattr(loaded, f"LiteRt{name}")
            function.argtypes = types
            function.restype = None if name.startswith("Destroy") else c_int
            if not name.startswith("Destroy"):
                function.errcheck = _check
    return loaded


def _check(status: int, function: Any, _: object) -> int:
    if status:
        raise LiteRtError(f"{function.__name__} failed with status {status}")
    return status


def map_file(path: str) -> mmap.mmap:
    """Map a file for `Session`: pages are read on use, and written pages are private.

    Raises: OSError; ValueError if it is empty.
    """
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


class Session:
    """A model file in memory, ready to run; one thread at a time may use it.

    `inputs` and `outputs` are lists of Tensor, in the order of the file. An open batch is 1.
    """

    def __init__(self, file: mmap.mmap | bytearray, threads: int = 1) -> None:
        """Verify and compile a model for the CPU. It is a buffer, as LiteRT does not verify a path.

        Raises: LiteRtError if LiteRT rejects the file.
        """
        api = self._api = library()
        content = (c_char * len(file)).from_buffer(file)
        opened: list[tuple[Any, c_void_p]] = []
        # not at exit: a forked child must not destroy what belongs to its parent
        weakref.finalize(self, _destroy, opened, content).atexit = False

        def create(function: str, destroy: str, *arguments: Any) -> c_void_p:
            handle = c_void_p()
            getattr(api, f"LiteRt{function}")(*arguments, byref(handle))
            opened.append((getattr(api, f"LiteRt{destroy}"), handle))
            return handle

        chosen = (EnvOption * 2)(
            EnvOption(OPTION_CPU_ONLY, Integer(INTEGER, 1)),
            EnvOption(OPTION_LOG_LEVEL, Integer(INTEGER, LOG_ERRORS)),
        )
        environment = create("CreateEnvironment", "DestroyEnvironment", len(chosen), chosen)
        address, size = ctypes.addressof(content), len(content)
        model = create("CreateModelFromBuffer", "DestroyModel", environment, address, size)
        options = create("CreateOptions", "DestroyOptions")
        api.LiteRtSetOptionsHardwareAccelerators(options, ACCELERATOR_CPU)
        api.LiteRtAddOpaqueOptions(options, _xnnpack_options(api, f"num_threads = {threads}\n"))
        compiled = create(
            "CreateCompiledModel", "DestroyCompiledModel", environment, model, options
        )
        graph = c_void_p()
        api.LiteRtGetModelSubgraph(model, 0, byref(graph))
        sources, targets = _tensors(api, graph, "Input"), _tensors(api, graph, "Output")
        for index, (tensor, _) in enumerate(sources):
            if tensor.is_open:
                sizes = (c_int * len(tensor.shape))(*tensor.shape)
                api.LiteRtCompiledModelResizeInputTensor(compiled, 0, index, sizes, len(sizes))

        def buffers(kind: str, types: list[tuple[Tensor, RankedTensorType]]) -> Any:
            made = (c_void_p * len(types))()
            requirements = getattr(api, f"LiteRtGetCompiledModel{kind}BufferRequirements")
            for index, (_, ranked) in enumerate(types):
                needs = c_void_p()
                requirements(compiled, 0, index, byref(needs))
                made[index] = create(
                    "CreateManagedTensorBufferFromRequirements",
                    "DestroyTensorBuffer",
                    environment,
                    byref(ranked),
                    needs,
                ).value
            return made

        self._compiled = compiled
        self._sources, self._targets = buffers("Input", sources), buffers("Output", targets)
        self.inputs = [tensor for tensor, _ in sources]
        self.outputs = [tensor for tensor, _ in targets]

    def run(self, content: bytes) -> list[bytes]:
        """Run the model on the bytes of its first input.

        Returns: the bytes of each output.
        Raises: LiteRtError, ValueError if *content* has another size.
        """
        if len(content) != self.inputs[0].bytes:
            raise ValueError(f"{len(content)} bytes for an input of {self.inputs[0].bytes}")
        api, memory = self._api, c_void_p()
        api.LiteRtLockTensorBuffer(self._sources[0], byref(memory), LOCK_WRITE)
        ctypes.memmove(memory, content, len(content))
        api.LiteRtUnlockTensorBuffer(self._sources[0])
        api.LiteRtRunCompiledModel(
            self._compiled, 0, len(self._sources), self._sources, len(self._targets), self._targets
        )
        found = []
        for buffer, tensor in zip(self._targets, self.outputs, strict=True):
            api.LiteRtLockTensorBuffer(buffer, byref(memory), LOCK_READ)
            found.append(ctypes.string_at(memory, tensor.bytes))
            api.LiteRtUnlockTensorBuffer(buffer)
        return found


def _tensors(api: Any, graph: c_void_p, kind: str) -> list[tuple[Tensor, RankedTensorType]]:
    """Read the tensors of a graph; *kind* is Input or Output."""
    count = c_size_t()
    getattr(api, f"LiteRtGetNumSubgraph{kind}s")(graph, byref(count))
    found = []
    for index in range(count.value):
        handle = c_void_p()
        getattr(api, f"LiteRtGetSubgraph{kind}")(graph, index, byref(handle))
        found.append(_read_tensor(api, handle))
    return found


def _read_tensor(api: Any, handle: c_void_p) -> tuple[Tensor, RankedTensorType]:
    """Read the type of a tensor; an open dimension becomes 1."""
    ranked, kind, quantization = RankedTensorType(), c_int(), PerTensor(1.0, 0)
    api.LiteRtGetRankedTensorType(handle, byref(ranked))
    if ranked.element_type not in ELEMENTS:
        known = ", ".join(name for name, _ in ELEMENTS.values())
        raise LiteRtError(f"a tensor is of type {ranked.element_type}; supported: {known}")
    api.LiteRtGetQuantizationTypeId(handle, byref(kind))
    if kind.value == PER_TENSOR:
        api.LiteRtGetPerTensorQuantization(handle, byref(quantization))
    layout = ranked.layout
    sizes = layout.dimensions[: layout.rank]
    layout.dimensions[: layout.rank] = [max(size, 1) for size in sizes]
    dtype, code = ELEMENTS[ranked.element_type]
    shape = tuple(max(size, 1) for size in sizes)
    scale, zero = quantization.scale, quantization.zero_point
    return Tensor(shape, dtype, code, scale, zero, min(sizes, default=1) < 0), ranked


def _xnnpack_options(api: Any, text: str) -> c_void_p:
    """Create options of XNNPACK, as TOML. LiteRT frees the text with libc's `free`."""
    libc = ctypes.CDLL(None)
    libc.strdup.restype, libc.strdup.argtypes = c_void_p, [c_char_p]
    options = c_void_p()
    release = ctypes.cast(libc.free, c_void_p)
    api.LiteRtCreateOpaqueOptions(b"xnnpack", libc.strdup(text.encode()), release, byref(options))
    return options


def _destroy(opened: list[tuple[Any, Any]], _content: Any) -> None:
    """Destroy what was created, the latest first. The model's content must live until then."""
    for destroy, handle in reversed(opened):
        destroy(handle)

"""Read a legacy PyTorch state dict as numpy arrays, without torch and without running code."""

import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DTYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the state dict, without its data."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Read the legacy `.pth` file at *path*.

    Returns: float32 or int64 arrays by name.
    Raises: pickle.UnpicklingError for another format, or a global that is not allowed.
    """
    with path.open("rb") as file:
        if Unpickler(file).load() != LEGACY_MAGIC:
            raise pickle.UnpicklingError(f"{path.name} is not a legacy PyTorch file")
        Unpickler(file).load()  # protocol version
        Unpickler(file).load()  # system information
        unpickler = Unpickler(file)
        tensors: dict[str, Tensor] = unpickler.load()
        order: list[str] = Unpickler(file).load()
        storages = {key: read_storage(file, unpickler.dtypes[key]) for key in order}
    return {name: to_array(tensor, storages[tensor.storage]) for name, tensor in tensors.items()}


class Unpickler(pickle.Unpickler):
    """An unpickler that only allows the four globals of a state dict."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.dtypes: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild_tensor
        if module == "torch" and name in DTYPES:
            return SimpleNamespace(name=name)  # not callable, as the class of a storage would be
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a state dict")

    def persistent_load(self, pid: Any) -> str:
        _, kind, key, *_ = pid
        self.dtypes[key] = DTYPES[kind.name]
        return str(key)


def rebuild_tensor(
    storage: str, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    """Replace `torch._utils._rebuild_tensor_v2`; gradients and hooks are ignored."""
    return Tensor(storage, offset, tuple(shape), tuple(stride))


def read_storage(file: BinaryIO, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read one storage: its element count as int64, then the elements."""
    (count,) = struct.unpack("<q", file.read(8))
    body = file.read(count * dtype.itemsize)
    if len(body) != count * dtype.itemsize:
        raise pickle.UnpicklingError("the file ends inside a storage")
    return np.frombuffer(body, dtype)


def to_array(tensor: Tensor, storage: NDArray[Any]) -> NDArray[Any]:
    """Read *tensor* from its storage.

    Only dense tensors are supported, with any axis order (weights from TensorFlow are transposed).
    Strides from a file must not be passed to `as_strided`, which can read any memory.
    """
    axes = range(len(tensor.shape))
    order = sorted(axes, key=lambda axis: (-tensor.stride[axis], -tensor.shape[axis]))
    stored_shape = [tensor.shape[axis] for axis in order]
    for place, axis in enumerate(order):
        # the stride of an axis of length 1 is irrelevant
        dense_stride = int(np.prod(stored_shape[place + 1 :]))
        if stored_shape[place] > 1 and tensor.stride[axis] != dense_stride:
            raise pickle.UnpicklingError("a tensor of the file is not dense")
    count = int(np.prod(tensor.shape))
    if not 0 <= tensor.offset <= len(storage) - count:
        raise pickle.UnpicklingError("a tensor of the file is outside its storage")
    dense = storage[tensor.offset : tensor.offset + count].reshape(stored_shape)
    return dense.transpose([order.index(axis) for axis in axes]).copy()

"""The reader of PyTorch files: what it reads and what it rejects."""

import io
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from macule.train.network import backbone, checkpoint


def pickled(value: Any) -> bytes:
    """Return a pickle of protocol 2, as in the legacy format."""
    return pickle.dumps(value, protocol=2)


def persistent(key: str, count: int) -> bytes:
    """Return a storage reference in pickle opcodes: BINPERSID of a tuple, without torch."""
    return (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
        + b"J" + struct.pack("<i", count) + b"NtQ"
    )  # fmt: skip


def text(value: str) -> bytes:
    """Return opcode BINUNICODE."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def numbers(*values: int) -> bytes:
    """Return a tuple of small integers."""
    return b"(" + b"".join(b"K" + bytes([value]) for value in values) + b"t"


def file(tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Path:
    """Return a legacy file with one tensor `w` over the storage 0, 1, ... 5."""
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + persistent("7", 6) + b"K" + bytes([offset]) + numbers(*shape) + numbers(*stride)
        + b"\x89" + b"ccollections\nOrderedDict\n)R" + b"tR"
    )  # fmt: skip
    state = b"\x80\x02ccollections\nOrderedDict\n)R(" + text("w") + tensor + b"u."
    storage = struct.pack("<q", 6) + np.arange(6, dtype="<f4").tobytes()
    head = pickled(checkpoint.LEGACY_MAGIC) + pickled(1001) + pickled({"little_endian": True})
    path = tmp_path / "w.pth"
    path.write_bytes(head + state + pickled(["7"]) + storage)
    return path


def test_reads_a_tensor(tmp_path: Path) -> None:
    """A dense tensor has its shape and values."""
    weights = checkpoint.read(file(tmp_path, (2, 3), (3, 1)))

    assert weights["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_reads_a_transposed_tensor(tmp_path: Path) -> None:
    """Axes in another order are transposed, as weights from TensorFlow need."""
    weights = checkpoint.read(file(tmp_path, (3, 2), (1, 3)))

    assert weights["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(("stride", "offset"), [((0, 1), 0), ((9, 1), 0), ((3, 1), 4)])
def test_out_of_bounds_reads_are_rejected(
    tmp_path: Path, stride: tuple[int, int], offset: int
) -> None:
    """Overlapping or large strides and an offset past the end are errors."""
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.read(file(tmp_path, (2, 3), stride, offset))


@pytest.mark.parametrize("name", ["os\nsystem", "builtins\neval", "torch\nload"])
def test_unknown_globals_are_rejected(name: str) -> None:
    """A pickle that names any other global is rejected before anything is called."""
    body = b"c" + name.encode() + b"\n(" + text("true") + b"tR."

    with pytest.raises(pickle.UnpicklingError, match="not allowed in a state dict"):
        checkpoint.Unpickler(io.BytesIO(body)).load()


def test_other_formats_are_rejected(tmp_path: Path) -> None:
    """A pickle without the legacy magic number is rejected."""
    path = tmp_path / "w.pth"
    path.write_bytes(pickled(OrderedDict()))

    with pytest.raises(pickle.UnpicklingError, match="not a legacy PyTorch file"):
        checkpoint.read(path)


def test_normalisation_is_folded_into_the_convolution() -> None:
    """A layer finds its arrays by name; kernel and bias have the effect of both layers."""
    random = np.random.default_rng(2)
    parts = ("weight", "bias", "running_mean", "running_var")
    norm = {part: random.uniform(0.5, 2, 144).astype(np.float32) for part in parts}
    weights = {f"_blocks.3._bn1.{part}": values for part, values in norm.items()}
    filters = random.normal(size=(144, 1, 5, 5)).astype(np.float32)
    weights["_blocks.3._depthwise_conv.weight"] = filters
    patch = random.normal(size=(5, 5, 144)).astype(np.float32)

    kernel, bias = backbone.fold_batch_norm("blocks_3_depthwise_conv", weights)
    answer = np.einsum("hwc,hwci->c", patch, kernel) + bias
    plain = np.einsum("hwc,cihw->c", patch, filters)
    expected = (plain - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-3)

    assert kernel.shape == (5, 5, 144, 1)
    np.testing.assert_allclose(answer, expected * norm["weight"] + norm["bias"], rtol=1e-4)


def test_a_dense_convolution_is_transposed() -> None:
    """PyTorch's axes (out, in, height, width) become Keras's (height, width, in, out)."""
    weights = {f"_bn0.{part}": np.ones(32, np.float32) for part in ("weight", "running_var")}
    weights |= {f"_bn0.{part}": np.zeros(32, np.float32) for part in ("bias", "running_mean")}
    weights["_conv_stem.weight"] = np.zeros((32, 3, 3, 3), np.float32)

    kernel, bias = backbone.fold_batch_norm("conv_stem", weights)

    assert (kernel.shape, bias.shape) == ((3, 3, 3, 32), (32,))

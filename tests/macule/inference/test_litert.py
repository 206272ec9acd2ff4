"""LiteRT's C API compared with its Python bindings, and what it does with other files."""

import ctypes
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from macule.inference.runtime import litert
from macule.inference.runtime.litert import LiteRtError, Session
from macule.registry import local, model_card
from support import small_model

DEFAULT = Path(local.DEFAULT_MODEL_DIR, model_card.read(local.DEFAULT_MODEL_DIR).file)


def default_content() -> bytes:
    return DEFAULT.read_bytes()


def small_int8() -> bytes:
    """Return the small classifier with an int8 input and int8 outputs."""
    from macule.convert.evaluation import batch_inference
    from macule.convert.quantization import quantize

    scaling = small_model.SCALING
    images = [batch_inference.scale(image[None], scaling) for image in small_model.pixels(8)]
    return quantize.int8(small_model.content(), images, batch_inference.scaled_bounds(scaling))


@pytest.mark.parametrize(
    "make",
    [
        default_content,
        pytest.param(small_model.content, marks=pytest.mark.slow),
        pytest.param(small_int8, marks=pytest.mark.slow),
    ],
    ids=["default", "float32", "int8"],
)
def test_outputs_equal_those_of_the_interpreter(make: Callable[[], bytes]) -> None:
    """Every output has the same bits, the same type, and the same quantization."""
    from ai_edge_litert.interpreter import Interpreter

    content = make()
    session, interpreter = Session(bytearray(content)), Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    expected = interpreter.get_output_details()
    values = np.random.default_rng(3).integers(-128, 128, source["shape"]).astype(source["dtype"])

    found = session.run(values.tobytes())
    interpreter.set_tensor(source["index"], values)
    interpreter.invoke()

    assert found == [interpreter.get_tensor(output["index"]).tobytes() for output in expected]
    for tensor, details in zip(session.outputs, expected, strict=True):
        assert tensor.shape == tuple(details["shape"])
        assert np.dtype(tensor.dtype) == details["dtype"]
        if tensor.dtype != "float32":
            assert (tensor.scale, tensor.zero_point) == details["quantization"]


@pytest.mark.slow
def test_an_open_batch_is_one_image() -> None:
    """A file that leaves the batch open runs one image, as the interpreter does."""
    keras = pytest.importorskip("keras")
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    values = np.random.default_rng(1).normal(0, 1, (1, 8, 8, 3)).astype(np.float32)

    session = Session(bytearray(content))
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    interpreter.invoke()

    assert session.inputs[0].is_open
    assert session.inputs[0].shape == (1, 8, 8, 3)
    (output,) = interpreter.get_output_details()
    assert session.run(values.tobytes()) == [interpreter.get_tensor(output["index"]).tobytes()]


def test_an_input_of_another_size_is_refused() -> None:
    """More or fewer bytes than the input has are an error, and nothing is written."""
    session = Session(bytearray(default_content()))
    size = session.inputs[0].bytes

    for wrong in (size - 1, size + 1):
        with pytest.raises(ValueError, match=f"{wrong} bytes for an input of {size}"):
            session.run(bytes(wrong))


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names both versions and says what to install."""
    monkeypatch.setitem(sys.modules, "ai_edge_litert", SimpleNamespace(__version__="2.4.0"))

    with pytest.raises(LiteRtError, match=re.escape("2.4.0; macule works with 2.3.0 only")):
        litert.library.__wrapped__()


def test_a_package_without_its_library_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A package that lacks the library, and a missing package, are named."""
    package = SimpleNamespace(__version__=litert.VERSION, __file__=str(tmp_path / "__init__.py"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert", package)
    with pytest.raises(LiteRtError, match=r"has no libLiteRt.so; install ai_edge_litert==2"):
        litert.library.__wrapped__()

    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(LiteRtError, match="is not installed"):
        litert.library.__wrapped__()


def test_structures_have_the_sizes_of_the_headers() -> None:
    """A structure of another size would write beyond its memory."""
    sizes = {litert.Layout: 68, litert.RankedTensorType: 72, litert.PerTensor: 16}
    sizes |= {litert.Integer: 16, litert.EnvOption: 24}

    assert {kind: ctypes.sizeof(kind) for kind in sizes} == sizes


FUZZ = """
import random, sys
from pathlib import Path
from macule.inference.runtime.litert import LiteRtError, Session
content, chosen = Path(sys.argv[1]).read_bytes(), random.Random(int(sys.argv[2]))
table = 600_000  # most of it is not weights
outcomes = set()
for _ in range(int(sys.argv[3])):
    damaged = bytearray(content)
    for _ in range(chosen.choice((1, 2, 8, 64))):
        damaged[chosen.randrange(table)] = chosen.randrange(256)
    if chosen.random() < 0.2:
        del damaged[chosen.randrange(1, len(damaged)):]
    try:
        Session(damaged)
        outcomes.add("loaded")
    except LiteRtError:
        outcomes.add("refused")
print(*sorted(outcomes))
"""


def test_damaged_files_are_loaded_or_refused() -> None:
    """No damage to the graph of a model crashes the process that loads it."""
    seed, count = str(random.randrange(10**6)), os.environ.get("LITERT_FUZZ_FILES", "100")

    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(DEFAULT), seed, count],
        capture_output=True,
        text=True,
        timeout=3600,
    )

    assert done.returncode == 0, (seed, done.stderr[-2000:])
    assert "refused" in done.stdout

"""A user's large model, converted and served, beside the same model served by TensorFlow.

    .venv-dev/bin/python bench/your_model.py --limit-mb 160

EfficientNetV2-S at 300 px with 7 classes: random weights, normalised on drawn images, have the
size and the speed of trained ones. The cache is off (CACHE_MB=0). Writes
bench/results/your-model.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

PYTHON = sys.executable
MACULE = [PYTHON, "-m", "macule.cli"]


def build(path: Path) -> None:
    """Save EfficientNetV2-S with the statistics of drawn images.

    Without them its activations grow from block to block, and rounding errors decide its answers.
    """
    code = """
import sys, keras, numpy as np
keras.utils.set_random_seed(0)
shape = (300, 300, 3)
body = keras.applications.EfficientNetV2S(weights=None, include_top=False, input_shape=shape)
norms = [layer for layer in body.layers if isinstance(layer, keras.layers.BatchNormalization)]
coarse = np.random.default_rng(0).uniform(0, 255, (8, 10, 10, 3)).astype(np.float32)
for norm in norms:
    norm.momentum = 0.0
body(keras.ops.image.resize(coarse, shape[:2]), training=True)
for norm in norms:
    norm.momentum = 0.99
pooled = keras.layers.Dropout(.3)(keras.layers.GlobalAveragePooling2D()(body.output))
model = keras.Model(body.input, keras.layers.Dense(7, activation="softmax")(pooled))
model.save(sys.argv[1])
"""
    subprocess.run([PYTHON, "-c", code, str(path)], check=True, env={**os.environ, **QUIET})


QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def measure(
    command: list[str], environment: dict[str, str], limit_mb: float | None, requests: int
) -> dict[str, Any]:
    """Cold start to first prediction, load by 4 clients, memory afterwards."""
    photo = harness.photo(12)
    with (
        harness.limited(limit_mb) as group,
        harness.serving(command, environment, group) as service,
    ):
        status = service.call("POST", "/predict/", photo)
        cold_s = time.perf_counter() - service.began
        load = harness.drive(service, [harness.Call("POST", "/predict/", photo)] * requests, 4)
        return {
            "limit_mb": limit_mb,
            "first_status": status,
            "cold_start_s": round(cold_s, 3),
            "answers": load.answers,
            "p50_ms": round(load.p50_ms, 1),
            "p99_ms": round(load.p99_ms, 1),
            "per_s": round(load.per_s, 1),
            "pss_mb": round(service.pss_mb(), 1),
            "kills": group.kills() if group else 0,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--limit-mb", type=float, nargs="+", default=[160.0, 128.0])
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keras_file, out = Path(folder) / "v2s.keras", Path(folder) / "v2s"
        build(keras_file)
        began = time.perf_counter()
        labels = ",".join(f"class{n}" for n in range(7))
        convert = [*MACULE, "convert", str(keras_file), "--labels", labels, "--precision", "int8"]
        subprocess.run([*convert, "--out", str(out)], check=True, cwd=harness.ROOT)
        converted_s = time.perf_counter() - began
        macule = ["make", "--no-print-directory", "serve"]
        where = {"MODEL_DIR": str(out)}
        measure(macule, where, None, 5)  # files warm
        gunicorn = [PYTHON, "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--threads", "2"]
        harness.record(
            "your-model",
            harness.installed("ai-edge-litert", "keras", "tensorflow-cpu", "gunicorn", "pillow"),
            keras_mb=round(keras_file.stat().st_size / harness.MB, 1),
            litert_mb=round((out / "model.tflite").stat().st_size / harness.MB, 1),
            convert_s=round(converted_s, 1),
            macule=[
                measure(macule, where, limit, options.requests)
                for limit in [None, *options.limit_mb]
            ],
            tensorflow=measure(
                [*gunicorn, "--timeout", "120", "bench.tensorflow_service:app"],
                {"MODEL_FILE": str(keras_file), **QUIET},
                None,
                options.requests,
            ),
        )


if __name__ == "__main__":
    main()

"""The default model's file beside plain EfficientNet-Lite0, and the cost of its further outputs.

    .venv-dev/bin/python bench/default_model.py

The other networks have random weights, which take as long as trained ones. Each file runs in fresh
processes, the files in turn. Writes bench/results/default-model.json.
"""

import argparse
import os
import statistics
from functools import partial
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import harness
import numpy as np
from macule.convert import export
from macule.convert.graph import out_of_distribution
from macule.convert.quantization import comparison, quantize
from macule.train.__main__ import OOD_LAYER
from macule.train.network import backbone

SHIPPED = harness.ROOT / "layers/model/macule/weights/model.tflite"
CLASSES = 3


def lite0(side_px: int, distance: bool) -> bytes:
    """Quantize EfficientNet-Lite0 with a head, every operator to int8."""
    random = np.random.default_rng(0)
    body = backbone.build(side_px)
    features, width = body.output.shape[-1], body.get_layer(OOD_LAYER).output.shape[-1]
    kernel, bias = random.normal(0, 0.05, (features, CLASSES)), np.zeros(CLASSES)
    scorer = out_of_distribution.fit(random.normal(0, 1, (400, width)).astype(np.float32))
    score = partial(out_of_distribution.build_score, scorer)
    whole = export.export_with_head(body, kernel, bias, (OOD_LAYER, score) if distance else None)
    images = [random.uniform(-1, 1, (1, side_px, side_px, 3)).astype(np.float32) for _ in range(4)]
    return quantize.int8(whole, images, (-1.0, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    files = {
        "shipped": SHIPPED.read_bytes(),
        "plain Lite0, 224 px": lite0(224, distance=False),
        "plain Lite0, 256 px": lite0(256, distance=False),
        "plain Lite0, 256 px, with distance": lite0(256, distance=True),
    }
    rounds = [
        {name: comparison.measure_cost(content) for name, content in files.items()}
        for _ in range(options.rounds)
    ]
    rows: dict[str, Any] = {
        name: {
            "bytes": len(content),
            "p50_ms": round(statistics.median(one[name].p50_ms[1] for one in rounds), 2),
            "peak_mb": round(statistics.median(one[name].peak_mb for one in rounds), 1),
        }
        for name, content in files.items()
    }
    harness.record(
        "default-model", harness.installed("ai-edge-litert", "litert-quantizer"), files=rows
    )


if __name__ == "__main__":
    main()

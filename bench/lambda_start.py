"""Start the real Lambda zips under a memory limit, and time the first answer to a phone's photo.

The runtime client is AWS's own; only the Runtime API is simulated, on loopback. Needs root for the
cgroup.
"""

import argparse
import base64
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

sys.path[:0] = [str(harness.ROOT / "tests"), str(harness.ROOT)]
from support.bundles import bundle
from support.lambda_runtime_api import running, unpack

PHOTO_EVENT = json.loads((harness.ROOT / "tests/infra/events/function-url.json").read_text())
IMPORTS = "import PIL.Image, ai_edge_litert"


def once(root: Path, limit_mb: int, cpus: float | None, event: dict[str, Any]) -> dict[str, Any]:
    """Measure one environment, from the start of its process to its second answer."""
    with contextlib.closing(harness.Cgroup(limit_mb, cpus)) as group:
        began = time.perf_counter()
        with running(root, limit_mb, root / "log", group.join) as function:
            first = function.invoke(event)
            cold_s = time.perf_counter() - began
            again = time.perf_counter()
            second = function.invoke(event)
            warm_s = time.perf_counter() - again
        return {
            "cold_s": cold_s,
            "warm_s": warm_s,
            "statuses": [first["statusCode"], second["statusCode"]],
            "peak_mb": group.peak_mb(),
            "kills": group.kills(),
        }


def import_ms(root: Path) -> float:
    """Return the time of Python and the imports of the layer's packages, in a fresh process."""
    began = time.perf_counter()
    environment = {"PYTHONPATH": str(root / "opt/python")}
    subprocess.run([sys.executable, "-S", "-c", IMPORTS], env=environment, check=True)
    return (time.perf_counter() - began) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--limit-mb", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    headers = {**PHOTO_EVENT["headers"], "cache-control": "no-cache"}  # the second is a cache miss
    body = base64.b64encode(harness.photo(12)).decode()
    event = {**PHOTO_EVENT, "headers": headers, "body": body}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        output = bundle(Path(folder) / "build", "aws")
        root = unpack(Path(folder) / "build/aws", "predict", Path(folder))
        for limit_mb in options.limit_mb:
            for cpus in (
                None,
                limit_mb / 1769,
            ):  # all processors of this machine, and Lambda's share
                runs = [once(root, limit_mb, cpus, event) for _ in range(options.rounds)]
                rows.append(
                    {
                        "limit_mb": limit_mb,
                        "cpus": cpus and round(cpus, 3),
                        "cold_s": round(statistics.median(run["cold_s"] for run in runs), 3),
                        "warm_s": round(statistics.median(run["warm_s"] for run in runs), 3),
                        "peak_mb": round(max(run["peak_mb"] for run in runs), 1),
                        "kills": sum(run["kills"] for run in runs),
                        "answers": sorted({code for run in runs for code in run["statuses"]}),
                    }
                )
        imports = [import_ms(root) for _ in range(options.rounds)]
    harness.record(
        "lambda-start",
        harness.installed("ai-edge-litert", "awslambdaric", "pillow"),
        bundles=output.splitlines(),
        import_ms=round(statistics.median(imports), 1),
        rows=rows,
    )


if __name__ == "__main__":
    main()

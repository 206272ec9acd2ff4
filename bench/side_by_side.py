"""macule beside a minimal server, what it replaces, and a common alternative; in one run.

    make bench

The same photos to each: macule with its cache off (CACHE_MB=0); a bare `http.server` with
macule's decoder and runtime; LitServe with the same; Django and TensorFlow with the same network
in Keras (random weights: as fast as trained ones). Writes bench/results/side-by-side.json,
docs/side-by-side.svg and docs/side-by-side.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import harness
from harness import Call

PAGE = harness.ROOT / "docs/side-by-side.md"
PLOT = harness.ROOT / "docs/side-by-side.svg"
KERAS = harness.ROOT / "build/bench/lite0.keras"
PYTHON = str(harness.ROOT / ".venv-bench/bin/python")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": "bench"}
LITE = {"MODEL_DIR": str(harness.ROOT / "layers/model/macule/weights"), **QUIET}
GUNICORN = [PYTHON, "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--timeout", "300"]
# The command of each, its environment, and the limits in MB to try.
SERVICES: dict[str, tuple[list[str], dict[str, str], tuple[int, ...]]] = {
    "macule": (
        ["make", "--no-print-directory", "serve"],
        {},
        (128, 96, 80, 72, 64, 60, 56),
    ),
    "http.server": ([PYTHON, "bench/floor_service.py"], LITE, (256, 192, 128, 96, 80, 64)),
    "LitServe": ([PYTHON, "bench/lit_service.py"], LITE, (768, 512, 384, 256, 192)),
    "Django + TensorFlow": (
        [*GUNICORN, "--threads", "2", "django_service:app"],
        {"MODEL_FILE": str(KERAS), **QUIET},
        (1024, 768, 640, 512, 448, 384),
    ),
}
HEAD = """# Side by side

Measured on {date} with `{command}` on {cpus} shared cores. The services run one after
another and get the same photos. Each cell has the ratio to macule, then the figure.
"""
FOOT = """
![The same as a plot](side-by-side.svg)

Installed size: macule {macule:.0f} MB; TensorFlow, Django, LitServe and the rest {others:.0f} MB.

`http.server` and LitServe run macule's decoder, runtime and model without its service.
Django runs the same network in Keras and decodes each photo whole. "none" means that the service
failed under every limit that was tried, or that the value cannot be measured here.

Versions: {versions}."""
TICKS = (0.5, 1, 2, 5, 10, 20)
VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""
FIGURES = (
    ("cold_s", "start to first prediction", "s"),
    ("cold_cpu_s", "the same in processor time", "s"),
    ("cold_tenth_s", "the same at 0.1 CPU and 1 GB", "s"),
    ("idle_mb", "idle", "MB"),
    ("loaded_mb", "after the load", "MB"),
    ("p50_1_small_ms", "1 client, 1 MP: p50", "ms"),
    ("p50_1_ms", "1 client, 12 MP: p50", "ms"),
    ("p50_8_ms", "8 clients, 12 MP: p50", "ms"),
    ("p99_8_ms", "8 clients, 12 MP: p99", "ms"),
    ("ms_a_photo", "8 clients, 12 MP: time a photo", "ms"),
    ("least_mb", "smallest memory limit that works", "MB"),
)


def build() -> None:
    """Save the default model's architecture in Keras, with its softmax."""
    KERAS.parent.mkdir(parents=True, exist_ok=True)
    code = """
import sys, keras
from macule.train.network import backbone
body = backbone.build(256)
pooled = keras.layers.GlobalAveragePooling2D()(body.output)
keras.Model(body.input, keras.layers.Dense(3, activation="softmax")(pooled)).save(sys.argv[1])
"""
    subprocess.run(
        [sys.executable, "-c", code, str(KERAS)], check=True, env={**os.environ, **QUIET}
    )


def raw(photo: bytes) -> Call:
    return Call("POST", "/predict/", photo)


def form(photo: bytes) -> Call:
    """Send the photo in a form, because LitServe takes no raw bodies."""
    head = '--bench\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    body = head.encode() + photo + b"\r\n--bench--\r\n"
    return Call("POST", "/predict/", body, "multipart/form-data; boundary=bench")


def measure(name: str, requests: int) -> dict[str, Any]:
    """Measure one service in every way."""
    command, environment, limits_mb = SERVICES[name]
    wrap = form if name == "LitServe" else raw
    small, large = (wrap(harness.photo(size)) for size in (1, 12))
    found: dict[str, Any] = {}
    with harness.serving(command, environment) as service:  # files warm
        service.call(*small)
    colds = []
    for _ in range(3):
        with harness.serving(command, environment) as service:
            if service.call(*small) != 200:
                raise RuntimeError(f"{name} does not answer")
            colds.append((time.perf_counter() - service.began, service.cpu_s()))
    found["cold_s"], found["cold_cpu_s"] = (
        round(sorted(part)[1], 2) for part in zip(*colds, strict=True)
    )
    found["cold_tenth_s"] = tenth(command, environment, small)
    with harness.serving(command, environment) as service:
        time.sleep(0.5)
        found["idle_mb"] = round(service.pss_mb(), 1)
        service.call(*small)
        found["p50_1_small_ms"] = round(harness.drive(service, [small] * requests, 1).p50_ms, 1)
        found["p50_1_ms"] = round(harness.drive(service, [large] * requests, 1).p50_ms, 1)
        load = harness.drive(service, [large] * 2 * requests, 8)
        found["p50_8_ms"], found["p99_8_ms"] = round(load.p50_ms, 1), round(load.p99_ms, 1)
        found["ms_a_photo"] = round(1e3 / load.per_s, 1)
        found["answers"] = load.answers
        found["loaded_mb"] = round(service.pss_mb(), 1)
    found["least_mb"] = least(command, environment, [small, *[large] * 40], limits_mb)
    return found


def tenth(command: list[str], environment: dict[str, str], call: Call) -> float | None:
    """Start with a tenth of a processor; None without cgroups or if it takes minutes."""
    try:
        with (
            harness.limited(1024, 0.1) as group,
            harness.serving(command, environment, group) as service,
        ):
            status = service.call(*call)
            return round(time.perf_counter() - service.began, 1) if status == 200 else None
    except OSError:
        return None


def least(
    command: list[str], environment: dict[str, str], calls: list[Call], limits_mb: tuple[int, ...]
) -> int | None:
    """Lower the limit until an answer fails or a process is killed."""
    held = None
    for limit_mb in limits_mb:
        try:
            with (
                harness.limited(limit_mb) as group,
                harness.serving(command, environment, group) as service,
            ):
                load = harness.drive(service, calls, 8)
                kills = group.kills() if group else 0
        except OSError:
            break
        if set(load.answers) != {"200"} or kills or load.p99_ms > 20_000:
            break
        held = limit_mb
    return held


def size_mb(folder: Path) -> float:
    """Sum the files of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) / harness.MB


def page(results: dict[str, Any]) -> str:
    """Write the figures as a table, ratios to macule first."""
    names = list(results["services"])
    mine = results["services"]["macule"]
    lines = [HEAD.format(**results), "| | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for key, title, unit in FIGURES:
        cells = [f"{mine[key]:g} {unit}" if mine[key] is not None else "none"]
        for name in names[1:]:
            value = results["services"][name][key]
            known = value is not None and mine[key]
            cells.append(f"**{value / mine[key]:.1f}** ({value:g} {unit})" if known else "none")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines.append(FOOT.format(**results["installed_mb"], versions=versions))
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any]) -> None:
    """Draw the ratios to macule."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    mine = results["services"]["macule"]
    others = [name for name in results["services"] if name != "macule"]
    with rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure((7.2, 4.8), layout="constrained")
        axes = figure.subplots()
        for name, marker in zip(others, "os^Dv", strict=False):
            row = results["services"][name]
            places = [n for n, (key, *_) in enumerate(FIGURES) if row[key] and mine[key]]
            ratios = [row[FIGURES[n][0]] / mine[FIGURES[n][0]] for n in places]
            axes.plot(ratios, places, marker, label=name)
        axes.axvline(1, color="#666666", linewidth=1)
        axes.set(xscale="log", xlabel="times macule's figure; right of the line is worse")
        axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axes.minorticks_off()
        axes.set_yticks(range(len(FIGURES)), [title for _, title, _ in FIGURES])
        axes.invert_yaxis()
        axes.grid(axis="x", color="#dddddd")
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(PLOT, metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--requests", type=int, default=40)
    options = parser.parse_args()
    build()
    services = {}
    for name in SERVICES:
        services[name] = measure(name, options.requests)
        print(name, json.dumps(services[name]), flush=True)
    parts = ["ai-edge-litert", "django", "gunicorn", "litserve", "pillow", "tensorflow-cpu"]
    results = harness.record(
        "side-by-side",
        json.loads(subprocess.check_output([PYTHON, "-c", VERSIONS, *parts])),
        cpus=os.cpu_count(),
        installed_mb={
            "macule": round(size_mb(harness.ROOT / ".venv") + size_mb(harness.ROOT / "layers"), 1),
            "others": round(size_mb(harness.ROOT / ".venv-bench"), 1),
        },
        services=services,
    )
    PAGE.write_text(page(results), encoding="utf-8")
    plot(results)


if __name__ == "__main__":
    main()

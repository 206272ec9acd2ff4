"""Ten thousand mixed requests: does the service keep memory that it should release?

    .venv-dev/bin/python bench/soak.py

Photos of every format and size, all three forms of upload, maps, errors and operators' reads, by
4 clients; the cache is off (CACHE_MB=0). Memory is the proportional set size of all processes,
read while nothing runs. Writes bench/results/soak.json.
"""

import argparse
import base64
import json
import random
import time
from io import BytesIO
from typing import Any

import harness
from harness import Call
from PIL import Image

WARM_UP = 1000
ROUND = 500


def mixed(count: int) -> list[Call]:
    """Draw *count* requests, the same each time."""
    small, large = harness.photo(1), harness.photo(12)
    picture = Image.open(BytesIO(small))
    boundary = "soak"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    form = head.encode() + small + f"\r\n--{boundary}--\r\n".encode()
    text = json.dumps({"image": base64.b64encode(small).decode()}).encode()
    kinds = [
        Call("POST", "/predict/", small),
        Call("POST", "/predict/?explain=cam", small),
        Call("POST", "/predict/", large),
        Call("POST", "/predict/", form, f"multipart/form-data; boundary={boundary}"),
        Call("POST", "/predict/", text, "application/json"),
        *(
            Call("POST", "/predict/", saved(picture, kind, **options))
            for kind, options in (
                ("PNG", {"compress_level": 1}),
                ("WEBP", {"method": 0}),
                ("GIF", {}),
                ("BMP", {}),
                ("TIFF", {}),
                ("JPEG", {"progressive": True}),
            )
        ),
        Call("POST", "/predict/", small[: len(small) // 2]),
        Call("POST", "/predict/", b"no image at all"),
        Call("POST", "/predict/", b"{", "application/json"),
        Call("GET", "/health/"),
        Call("GET", "/memory/"),
        Call("GET", "/nowhere/"),
    ]
    return random.Random(0).choices(kinds, k=count)  # noqa: S311


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def resting(service: harness.Service) -> float:
    """Return the memory of an idle service."""
    time.sleep(1.0)
    return round(service.pss_mb(), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    calls = mixed(WARM_UP + options.requests)
    answers: dict[str, int] = {}
    sizes_mb = []
    with harness.serving(["make", "--no-print-directory", "serve"], {}) as service:
        harness.drive(service, calls[:WARM_UP], options.clients)
        sizes_mb.append(resting(service))
        for start in range(WARM_UP, len(calls), ROUND):
            load = harness.drive(service, calls[start : start + ROUND], options.clients)
            for status, number in load.answers.items():
                answers[status] = answers.get(status, 0) + number
            sizes_mb.append(resting(service))
            print(f"{start + ROUND - WARM_UP}: {sizes_mb[-1]} MB, {load.per_s:.0f}/s", flush=True)
    harness.record(
        "soak",
        harness.installed("ai-edge-litert", "gunicorn", "pillow"),
        answers=answers,
        grown_mb=round(sizes_mb[-1] - sizes_mb[0], 2),
        pss_mb=sizes_mb,
    )


if __name__ == "__main__":
    main()

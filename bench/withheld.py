"""Hundreds of connections that withhold their body or do not read: the effect on other clients.

    .venv-dev/bin/python bench/withheld.py [--only NAME ...]

An honest client asks for GET /health/ and POST /predict/ (1 MP, no cache) in turn, first alone,
then beside each crowd. A connection of a crowd stays for 10 s, whatever is answered, and is opened
again. All clients run on the same processors as the service. Writes bench/results/withheld.json.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import resource
import socket
import subprocess
import sys
import time
from collections import Counter

import harness
import psutil

KEY = "mk_honest"
LENGTH = "Content-Length: 99999999\r\n"
PHOTO = "Content-Type: image/jpeg\r\nContent-Length: 1000000\r\n"
JPEG = b"\xff\xd8"
SLOW_S, STAY_S, JOIN_S = 1.0, 10.0, 5.0
TINY_BYTES = 4096  # of a receive buffer that is never read


class Crowd:
    """What each connection of a crowd sends: a head, then *piece* each second; it may not read."""

    def __init__(
        self,
        line: str,
        headers: str = "",
        piece: bytes = b"",
        ends: bool = True,
        reads: bool = True,
    ) -> None:
        self.head = f"{line} HTTP/1.1\r\nHost: a\r\n{headers}".encode() + b"\r\n" * ends
        self.piece, self.reads = piece, reads


CROWDS = {
    "GET with a body": Crowd("GET /health/", LENGTH),
    "too large": Crowd("POST /predict/", LENGTH),
    "no route": Crowd("POST /nowhere", LENGTH),
    "no such method": Crowd("POST /health/", LENGTH),
    "too large, expects 100": Crowd("POST /predict/", LENGTH + "Expect: 100-continue\r\n"),
    "photos withheld": Crowd("POST /predict/", PHOTO),
    "photos withheld, expects 100": Crowd("POST /predict/", PHOTO + "Expect: 100-continue\r\n"),
    "photos at 5 kB/s": Crowd("POST /predict/", PHOTO, JPEG + bytes(4998)),
    "chunks withheld": Crowd("POST /predict/", "Transfer-Encoding: chunked\r\n"),
    "chunks at 5 kB/s": Crowd(
        "POST /predict/", "Transfer-Encoding: chunked\r\n", b"1388\r\n" + bytes(5000) + b"\r\n"
    ),
    "jobs at 5 kB/s": Crowd("POST /predictions", PHOTO, bytes(5000)),
    "heads withheld": Crowd("GET /health/", "X: ", b"a", ends=False),
    "readers of /openapi.json": Crowd("GET /openapi.json", reads=False),
    "readers of /docs/": Crowd("GET /docs/", reads=False),
    "wrong keys": Crowd("POST /predict/", LENGTH + "X-API-Key: mk_stranger\r\n"),
}


def run_crowd(port: int, name: str, count: int, run_s: float) -> None:
    """Run a crowd for a while; print how its connections were answered."""
    what, answers = CROWDS[name], Counter[str]()
    began = time.monotonic()
    lines: list[socket.socket | None] = [None] * count
    # the first ones arrive within JOIN_S
    ends = [began + JOIN_S * place / count for place in range(count)]
    pieces = [0.0] * count

    def join() -> socket.socket | None:
        line = socket.socket()
        if not what.reads:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY_BYTES)
        line.settimeout(5)
        try:
            line.connect(("127.0.0.1", port))
            line.sendall(what.head)
        except OSError:
            line.close()
            answers["not connected"] += 1
            return None
        return line

    def leave(line: socket.socket) -> None:
        line.setblocking(False)
        try:
            got = line.recv(65536)
        except BlockingIOError:
            got = b"HTTP/1.1 nothing"
        except OSError:
            got = b"HTTP/1.1 reset"
        answers[got[9:17].split()[0].decode() if got else "end"] += 1
        line.close()

    while (now := time.monotonic()) < began + run_s:
        for place, line in enumerate(lines):
            if ends[place] <= now:
                if line:
                    leave(line)
                lines[place] = join()
                ends[place], pieces[place] = ends[place] + STAY_S, now + SLOW_S
            elif line and what.piece and pieces[place] <= now:
                pieces[place] += SLOW_S
                with contextlib.suppress(OSError):
                    line.sendall(what.piece)
        time.sleep(0.005)
    print(json.dumps(answers))


def run_honest_client(port: int, photo: bytes, run_s: float) -> dict[str, list[float]]:
    """Ask in turn; return the times in ms. Any status but 200 ends the bench."""
    times: dict[str, list[float]] = {"/health/": [], "/predict/": []}
    line, end = http.client.HTTPConnection("127.0.0.1", port, timeout=60), time.monotonic() + run_s
    headers = {"X-API-Key": KEY, "Cache-Control": "no-cache", "Content-Type": "image/jpeg"}
    while time.monotonic() < end:
        for path, found in times.items():
            began = time.perf_counter()
            if path == "/health/":
                line.request("GET", path)
            else:
                line.request("POST", path, photo, headers)
            answer = line.getresponse()
            answer.read()
            found.append((time.perf_counter() - began) * 1e3)
            if answer.status != 200:
                raise SystemExit(f"{path}: {answer.status}")
    line.close()
    return times


def p99(times: list[float]) -> float:
    return round(sorted(times)[int(len(times) * 0.99)], 1)


def tasks(service: harness.Service) -> int:
    """Count the threads of all its processes."""
    return sum(psutil.Process(pid).num_threads() for pid in service.pids())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--connections", type=int, default=900)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each crowd")
    parser.add_argument("--only", nargs="*", choices=CROWDS, default=list(CROWDS))
    parser.add_argument("--mb", type=float, help="memory limit, by a cgroup (needs root)")
    parser.add_argument("--crowd", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if options.crowd:
        port, name, run_s = options.crowd
        run_crowd(int(port), name, options.connections, float(run_s))
        return
    photo, rows = harness.photo(1), {}
    keys = f"honest:{hashlib.sha256(KEY.encode()).hexdigest()}"
    make = ["make", "--no-print-directory", "serve"]
    for locked in (False, True):
        names = [name for name in options.only if (name == "wrong keys") is locked]
        if not names:
            continue
        with (
            harness.limited(options.mb) as group,
            harness.serving(make, {"API_KEYS": keys} if locked else {}, group) as service,
        ):
            run_honest_client(service.port, photo, 3)
            for name in names:
                alone = run_honest_client(service.port, photo, options.seconds / 2)
                holders = subprocess.Popen(
                    [
                        *(sys.executable, __file__, "--connections", str(options.connections)),
                        *(
                            "--crowd",
                            str(service.port),
                            name,
                            str(options.seconds * 1.25 + JOIN_S + 1),
                        ),
                    ],
                    stdout=subprocess.PIPE,
                )
                time.sleep(JOIN_S)
                spent_s, began = service.cpu_s(), time.perf_counter()
                time.sleep(options.seconds / 4)
                share = (service.cpu_s() - spent_s) / (time.perf_counter() - began)
                beside = run_honest_client(service.port, photo, options.seconds)
                threads, size_mb = tasks(service), round(service.pss_mb(), 1)
                output, _ = holders.communicate(timeout=60)
                rows[name] = {
                    "crowd": json.loads(output),
                    "p99_ms_alone": {path: p99(times) for path, times in alone.items()},
                    "p99_ms_beside": {path: p99(times) for path, times in beside.items()},
                    "longest_ms": {path: round(max(times), 1) for path, times in beside.items()},
                    "requests": {path: len(times) for path, times in beside.items()},
                    "processors": round(share, 3),  # only for the crowd
                    "threads": threads,
                    "pss_mb": size_mb,
                }
                print(name, json.dumps(rows[name]), flush=True)
                time.sleep(STAY_S / 2)
            killed = group.kills() if group else 0
    harness.record(
        "withheld",
        harness.installed("ai-edge-litert", "gunicorn"),
        connections=options.connections,
        limit_mb=options.mb,
        killed=killed,
        crowds=rows,
    )


if __name__ == "__main__":
    main()

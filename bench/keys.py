"""A hundred thousand requests with a wrong key: the effect on other clients, memory and slots.

    .venv-dev/bin/python bench/keys.py

Honest clients send photos of 1 MP with their key over persistent connections; others send POST
/predict/ with an unknown key, each as soon as the last is refused. Rounds of honest clients alone
and of both take turns. All clients run on the same processors as the service.
Writes bench/results/keys.json.
"""

import argparse
import hashlib
import http.client
import json
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import harness

KEY, WRONG = "mk_honest", "mk_stranger"


def send_wrong_keys(port: int, count: int, connections: int, size: int) -> None:
    """Send *count* requests with a wrong key from this process; print their answers by status."""
    request = (
        f"POST /predict/ HTTP/1.1\r\nHost: a\r\nX-API-Key: {WRONG}\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: {size}\r\n\r\n"
    ).encode() + bytes(size)
    answers: Counter[str] = Counter()
    with selectors.DefaultSelector() as ready:
        left, open_ = count, 0

        def ask() -> None:
            nonlocal left, open_
            line = socket.create_connection(("127.0.0.1", port))
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.sendall(request)
            ready.register(line, selectors.EVENT_READ, bytearray())
            left, open_ = left - 1, open_ + 1

        for _ in range(min(connections, count)):
            ask()
        while open_:
            for key, _ in ready.select(30):
                line, got = key.fileobj, key.data
                if not isinstance(line, socket.socket):
                    raise TypeError
                try:
                    chunk = line.recv(65536)
                except OSError:
                    chunk = b""
                got += chunk
                head, _, body = got.partition(b"\r\n\r\n")
                if chunk and (not body or len(body) < length(bytes(head))):
                    continue
                answers[head[9:12].decode() or "nothing"] += 1
                ready.unregister(line)
                open_ -= 1
                if chunk and left:
                    line.sendall(request)
                    ready.register(line, selectors.EVENT_READ, bytearray())
                    left, open_ = left - 1, open_ + 1
                else:
                    line.close()
                    if left:
                        ask()
    print(json.dumps(answers))


def length(head: bytes) -> int:
    """Read the Content-Length of an answer."""
    for row in head.lower().split(b"\r\n"):
        if row.startswith(b"content-length:"):
            return int(row[15:])
    return 0


class Honest:
    """Clients with a valid key, each on its own connection, until stopped."""

    def __init__(self, port: int, photo: bytes, clients: int) -> None:
        self.times_ms: list[float] = []
        self.answers: Counter[int] = Counter()
        self._port, self._photo = port, photo
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        line = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._over.is_set():
            began = time.perf_counter()
            line.request("POST", "/predict/", self._photo, {"X-API-Key": KEY})
            response = line.getresponse()
            response.read()
            self.times_ms.append((time.perf_counter() - began) * 1e3)
            self.answers[response.status] += 1
        line.close()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def p99(times: list[float]) -> float:
    return round(sorted(times)[int(len(times) * 0.99)], 1)


def slots(port: int) -> dict[str, int]:
    """Return the slots in use."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.request("GET", "/memory/", headers={"X-API-Key": KEY})
    found: dict[str, int] = json.loads(line.getresponse().read())["slots"]
    line.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--clients", type=int, default=2, help="honest ones")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--alone-s", type=float, default=15.0, help="of each round")
    parser.add_argument("--bytes", type=int, default=0, help="of the body of each refused request")
    parser.add_argument("--wrong", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.wrong:
        send_wrong_keys(options.wrong, options.requests, options.connections, options.bytes)
        return
    photo = harness.photo(1)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    make = ["make", "--no-print-directory", "serve"]
    alone: list[list[float]] = []
    beside: list[list[float]] = []
    refused: Counter[str] = Counter()
    honest_answers: Counter[int] = Counter()
    spent_s, used = 0.0, []
    sizes_mb = []
    with harness.serving(make, {"API_KEYS": f"honest:{digest}"}) as service:
        warm = Honest(service.port, photo, options.clients)
        time.sleep(4)
        warm.stop()
        time.sleep(1)
        sizes_mb.append(round(service.pss_mb(), 2))
        for _ in range(options.rounds):
            honest = Honest(service.port, photo, options.clients)
            time.sleep(options.alone_s)
            honest.stop()
            alone.append(honest.times_ms)
            honest = Honest(service.port, photo, options.clients)
            began = time.perf_counter()
            attackers = subprocess.Popen(
                [
                    *(sys.executable, str(Path(__file__)), "--wrong", str(service.port)),
                    *("--requests", str(options.requests // options.rounds)),
                    *("--connections", str(options.connections), "--bytes", str(options.bytes)),
                ],
                stdout=subprocess.PIPE,
            )
            time.sleep(1.0)
            used.append(slots(service.port))
            output, _ = attackers.communicate(timeout=600)
            spent_s += time.perf_counter() - began
            honest.stop()
            refused.update(json.loads(output))
            honest_answers.update(honest.answers)
            beside.append(honest.times_ms)
            time.sleep(1)
            sizes_mb.append(round(service.pss_mb(), 2))
            print(f"p99 {p99(alone[-1])} ms alone, {p99(beside[-1])} beside", flush=True)
    both = {"alone": list(chain(*alone)), "beside": list(chain(*beside))}
    harness.record(
        "keys",
        harness.installed("ai-edge-litert", "gunicorn"),
        refused=dict(refused),
        refused_per_s=round(refused.total() / spent_s),
        honest={str(status): number for status, number in honest_answers.items()},
        pss_mb=sizes_mb,
        slots_beside=used,
        p50_ms={name: round(statistics.median(times), 1) for name, times in both.items()},
        p99_ms={name: p99(times) for name, times in both.items()},
        p99_of_rounds_ms={"alone": list(map(p99, alone)), "beside": list(map(p99, beside))},
    )


if __name__ == "__main__":
    main()

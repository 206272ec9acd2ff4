"""A steady load of direct predictions and jobs with webhooks. Each client retries until it gets
an answer.
"""

from __future__ import annotations

import http.client
import json
import random
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from ledger import Ended, Ledger

TRIES_S = 180.0  # time limit for the retries of one request
MOST_WAIT_S = 2.0  # share of Retry-After, so that a run of a minute has many answers
PAUSE_S = 0.15  # between two requests of a client
POLLERS = 4


class Answer(NamedTuple):
    status: int
    retry_after: str
    document: dict[str, Any]


def marked(photo: bytes, mark: str) -> bytes:
    """Return a JPEG that differs from *photo* only in a comment, so that no cache has it."""
    comment = mark.encode()
    return photo[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + photo[2:]


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Ask once.

    Raises: OSError, http.client.HTTPException without a complete answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    retry_after = response.headers.get("Retry-After", "")
    return Answer(response.status, retry_after, json.loads(text or b"{}"))


class Load:
    """Clients of one service, until `end`: some predict, one creates jobs."""

    def __init__(
        self,
        name: str,
        port: int,
        photos: Sequence[bytes],
        webhook: str,
        ledger: Ledger,
        seed: int,
        headers: Mapping[str, str] | None = None,
        predicting: int = 2,
    ) -> None:
        self._name, self._port, self._photos = name, port, photos
        self._headers = dict(headers or {})
        self._webhook, self._ledger = webhook, ledger
        self._over, self._jobs_over = threading.Event(), threading.Event()
        self._made: list[str] = []  # jobs
        self._open: dict[str, float] = {}  # unfinished ones: when to poll again
        plans = [*[self._predict] * predicting, self._make]
        self._threads = [
            threading.Thread(target=plan, args=(number, random.Random(f"{seed} {name} {number}")))  # noqa: S311
            for number, plan in enumerate(plans)
        ]
        self._pollers = [threading.Thread(target=self._poll) for _ in range(POLLERS)]
        self._lock = threading.Lock()
        for thread in (*self._threads, *self._pollers):
            thread.start()

    def end(self) -> None:
        """Finish started requests and accepted jobs; poll each job once more."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        end = time.monotonic() + TRIES_S
        while self._open and time.monotonic() < end:
            time.sleep(0.1)
        self._jobs_over.set()
        for thread in self._pollers:
            thread.join()
        for job_id in self._made:  # a result that changes is a second one
            self._look(job_id)

    def _predict(self, number: int, rng: random.Random) -> None:
        turn = 0
        while not self._over.wait(rng.uniform(0, 2 * PAUSE_S)):
            turn += 1
            name = f"{self._name}-predict-{number}-{turn}"
            self._ledger.asked(name)
            # every fourth is an earlier photo, which a cache may answer
            photo = rng.choice(self._photos)
            body = photo if turn % 4 == 0 else marked(photo, name)
            query = rng.choice(("", "", "?explain=cam"))
            answer = self._ask_until_answered(
                name, "POST", f"/predict/{query}", body, {"X-Request-Id": name}
            )
            if answer:
                self._ledger.answered(name)

    def _make(self, number: int, rng: random.Random) -> None:
        turn = 0
        while not self._over.wait(rng.uniform(0, 4 * PAUSE_S)):
            turn += 1
            key = f"{self._name}-job-{number}-{turn}"
            body, kind = form(marked(rng.choice(self._photos), key), self._webhook)
            headers = {"Content-Type": kind, "Idempotency-Key": key}
            query = rng.choice(("", "?explain=cam"))
            answer = self._ask_until_answered(key, "POST", f"/predictions{query}", body, headers)
            if answer:
                job_id = str(answer.document.get("id") or answer.document["prediction"])
                self._ledger.job(key, job_id)
                with self._lock:
                    self._made.append(job_id)
                    self._open[job_id] = 0.0

    def _ask_until_answered(
        self, name: str, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> Answer | None:
        """Ask until the answer is not a refusal."""
        end = time.monotonic() + TRIES_S
        while time.monotonic() < end:
            began, wait_s = time.monotonic(), 0.1
            try:
                answer = ask(self._port, method, path, body, {**self._headers, **headers})
                slug = str(answer.document.get("type", "")).rpartition(":")[2]
                if answer.status in (200, 202) or slug == "key-in-use":
                    return answer
                self._ledger.refusal(name, answer.status, slug, answer.retry_after)
                if answer.status not in (429, 503):
                    return None
                wait_s = min(float(answer.retry_after or 1), MOST_WAIT_S)
            except (OSError, http.client.HTTPException) as error:
                self._ledger.broke(began, type(error).__name__)
            time.sleep(wait_s)
        return None

    def _poll(self) -> None:
        while not self._jobs_over.wait(0.02):
            with self._lock:
                due = min(self._open, key=self._open.__getitem__, default="")
                if not due or self._open[due] > time.monotonic():
                    continue
                self._open[due] = time.monotonic() + 0.5
            if self._look(due):
                with self._lock:
                    self._open.pop(due, None)

    def _look(self, job_id: str) -> bool:
        """Poll a job; note its end."""
        began = time.monotonic()
        try:
            answer = ask(self._port, "GET", f"/predictions/{job_id}", headers=self._headers)
        except (OSError, http.client.HTTPException) as error:
            self._ledger.broke(began, type(error).__name__)
            return False
        if answer.status != 200:
            slug = str(answer.document.get("type", "")).rpartition(":")[2]
            self._ledger.refusal(f"GET {job_id}", answer.status, slug, answer.retry_after)
            return False
        if answer.document["status"] in ("starting", "processing"):
            return False
        problem = answer.document.get("error") or {}
        slug = str(problem.get("type", "")).rpartition(":")[2]
        self._ledger.end(job_id, Ended(answer.document["status"], slug))
        return True


def form(photo: bytes, webhook: str) -> tuple[bytes, str]:
    """Return a form of a photo and a webhook address, and its Content-Type."""
    boundary = "chaos-boundary"
    parts = [("webhook", webhook.encode()), ("webhook_events_filter", b"prediction.completed")]
    lines = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value
        for name, value in parts
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    lines += [head.encode() + photo, f"--{boundary}--\r\n".encode()]
    return b"\r\n".join(lines), f"multipart/form-data; boundary={boundary}"


class Receiver(ThreadingHTTPServer):
    """Receives webhooks; rejects the first attempt of one in ten, which must come again."""

    daemon_threads = True

    def __init__(self, ledger: Ledger, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Webhook)
        self.ledger, self.seen = ledger, set[str]()
        self.rng = random.Random(seed)  # noqa: S311
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Webhook(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        message_id = self.headers["webhook-id"]
        refused = message_id not in self.server.seen and self.server.rng.random() < 0.1
        self.server.seen.add(message_id)
        if not refused:
            self.server.ledger.delivery(json.loads(body)["data"]["id"], message_id)
        with suppress(OSError):
            self.send_response(503 if refused else 204)
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass

#!/usr/bin/env python3
"""Send a photo to macule and print the JSON of its answer. Needs httpx (pip install httpx).

    examples/predict.py [--later] PHOTO [URL]

MACULE_API_KEY, if the service needs one, and MACULE_TIMEOUT_S (60) come from the environment.
Exits with 0 for an answer, 1 for a problem, 2 for wrong usage. Import `predict`, `predict_later`
and `Problem`, or copy this file.
"""

import argparse
import json
import os
import secrets
import sys
import time

import httpx

CONNECT_S = 3.0
TIMEOUT_S = 60.0  # of all attempts and the waits between them
TRIES = 5
AGAIN = (429, 503)  # temporary errors; predicting changes nothing, so a photo may be sent twice
DEFAULT_URL = "http://localhost:8080"


class Problem(Exception):
    """An error: `document` is RFC 9457's; `status` is 0 without an answer."""

    def __init__(self, document):
        self.document = document
        self.status = document.get("status", 0)
        self.request_id = document.get("request_id", "")
        title, detail = document.get("title", "Error"), document.get("detail", "")
        super().__init__(f"{self.status} {title}: {detail} (request {self.request_id})")


def predict(photo, url=DEFAULT_URL, key="", timeout_s=TIMEOUT_S):
    """Classify the bytes of a photo.

    Raises: Problem.
    """
    with Session(url, key, timeout_s) as session:
        _, _, answer = session.ask("POST", "/predict/", photo)
        return answer


def predict_later(photo, url=DEFAULT_URL, key="", timeout_s=TIMEOUT_S, idempotency_key=""):
    """Put a photo into macule's queue and poll until it has an answer.

    *idempotency_key*: the same key with the same photo makes one prediction.
    Raises: Problem.
    """
    order = {"Prefer": "respond-async", "Idempotency-Key": idempotency_key or secrets.token_hex(12)}
    with Session(url, key, timeout_s) as session:
        try:
            _, headers, job = session.ask("POST", "/predictions", photo, order)
        except Problem as problem:  # key-in-use names the earlier prediction
            if "prediction" not in problem.document:
                raise
            headers, job = {}, {"id": problem.document["prediction"], "status": "starting"}
        path = f"/predictions/{job['id']}"  # as in Location, without a prefix of the URL
        known = {}
        while job["status"] in ("starting", "processing"):
            session.wait(headers)
            status, headers, changed = session.ask("GET", path, None, known)
            if status != 304:
                job, known = changed, {"If-None-Match": headers.get("ETag", "")}
    if job["status"] != "succeeded":
        detail = f"The prediction was {job['status']}."
        why = job.get("error") or {"title": "No answer", "detail": detail}
        raise Problem({"request_id": session.id} | why)
    return job


class Session:
    """Requests to one service, all within *timeout_s*."""

    def __init__(self, url, key, timeout_s):
        self.url, self.timeout_s = url.rstrip("/"), timeout_s
        self.end = time.monotonic() + timeout_s
        self.id = secrets.token_hex(12)  # the id of the request in the service's log
        headers = {"X-Request-Id": self.id, "Content-Type": "application/octet-stream"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self.client = httpx.Client(headers=headers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def ask(self, method, path, body=None, headers=None):
        """Send one request, and retry if told so; return status, headers and document."""
        for tried in range(1, TRIES + 1):
            status, given, text = self.send(method, path, body, headers)
            document = read(text)
            if status == 304 or (status < 300 and document):
                return status, given, document
            if "status" not in document:  # not macule's: a proxy's, or an incomplete answer
                detail = "What came is no answer of macule."
                document = {"title": "No answer", "status": status, "detail": detail}
            problem = Problem({"request_id": given.get("X-Request-Id", self.id)} | document)
            if status not in AGAIN or tried == TRIES:
                break
            self.wait(given, problem)
        raise problem

    def send(self, method, path, body, headers):
        """Send one request; httpx limits each wait for bytes, the loop the total time."""
        limit = httpx.Timeout(self.left(), connect=min(CONNECT_S, self.left()))
        try:
            with self.client.stream(
                method, self.url + path, content=body, headers=headers, timeout=limit
            ) as response:
                parts = []
                for part in response.iter_bytes():
                    parts.append(part)
                    self.left()
                return response.status_code, response.headers, b"".join(parts)
        except httpx.TimeoutException as error:
            raise self.no_answer(f"None came in time ({type(error).__name__}).") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self.no_answer(f"{self.url} cannot be reached: {error}.") from error

    def left(self):
        """Return the seconds left; raise Problem if there are none."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise self.no_answer(f"None came within {self.timeout_s:g} s.")
        return left

    def wait(self, headers, instead=None):
        """Wait for Retry-After; raise *instead* at once if that is too long."""
        text = headers.get("Retry-After", "1")
        seconds = int(text) if text.isascii() and text.isdigit() else 1
        if seconds >= self.left():
            raise instead or self.no_answer(f"None came within {self.timeout_s:g} s.")
        time.sleep(seconds)

    def no_answer(self, detail):
        return Problem({"title": "No answer", "detail": detail, "request_id": self.id})


def read(text):
    """Read a JSON object; return an empty one for anything else."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {}


def main():
    parser = argparse.ArgumentParser(description="Send a photo to macule and print its answer.")
    parser.add_argument("--later", action="store_true", help="by way of its queue")
    parser.add_argument("photo", type=argparse.FileType("rb"))
    parser.add_argument("url", nargs="?", default=DEFAULT_URL)
    asked = parser.parse_args()
    key, seconds = os.environ.get("MACULE_API_KEY", ""), os.environ.get("MACULE_TIMEOUT_S", "60")
    if not seconds.isdecimal():
        parser.error("MACULE_TIMEOUT_S is no number of seconds")
    send = predict_later if asked.later else predict
    try:
        answer = send(asked.photo.read(), asked.url, key, float(seconds))
    except Problem as problem:
        sys.exit(f"{problem}")
    print(json.dumps(answer, ensure_ascii=False))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Receive macule's webhooks and print those with a valid signature. Standard library only.

    WEBHOOK_SECRETS=whsec_... examples/verify_webhook.py [PORT]

Copy `verify`, `Forged` and TOLERANCE_S into your own receiver.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE_S = 300
SECRETS = os.environ.get("WEBHOOK_SECRETS", "").split(",")
MOST_BYTES = 2**20
REMEMBERED = 10_000
SEEN: dict[str, None] = {}  # a receiver of several processes needs a database here


class Forged(Exception):
    """A message with a wrong signature, an old time, or a missing header."""


def verify(
    secrets: Iterable[str], headers: Mapping[str, str], body: bytes, now: float | None = None
) -> str:
    """Check a request; *headers* by names in lower case, *body* as received, before any parsing.

    Returns: the message's id; a repeated message has the same id.
    Raises: Forged.
    """
    try:
        message_id, sent = headers["webhook-id"], headers["webhook-timestamp"]
        signatures = headers["webhook-signature"].split()
    except KeyError as error:
        raise Forged(f"there is no {error}") from error
    if not (sent.isascii() and sent.isdigit() and len(sent) < 20):
        raise Forged("webhook-timestamp is no number")
    if abs((time.time() if now is None else now) - int(sent)) > TOLERANCE_S:
        raise Forged("it was sent more than five minutes ago, or will be")
    content = f"{message_id}.{sent}.".encode() + body
    for secret in secrets:
        key = base64.b64decode(secret.strip().removeprefix("whsec_"))
        mine = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
        for signature in signatures:
            if hmac.compare_digest(signature.encode(), f"v1,{mine}".encode()):
                return message_id
    raise Forged("no signature fits")


class Receiver(BaseHTTPRequestHandler):
    timeout = 15  # of silence of the sender

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return self.answer(413)
        body = self.rfile.read(int(length))
        names = {name.lower(): value for name, value in self.headers.items()}
        try:
            message_id = verify(SECRETS, names, body)
        except Forged as error:
            print(f"refused: {error}", file=sys.stderr, flush=True)
            return self.answer(401)
        if message_id not in SEEN:
            SEEN[message_id] = None
            if len(SEEN) > REMEMBERED:
                del SEEN[next(iter(SEEN))]
            print(json.dumps({"id": message_id, **json.loads(body)}), flush=True)
        return self.answer(204)  # immediately: put slow work into a queue of your own

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    if SECRETS == [""]:  # anybody could sign with an empty key
        sys.exit("Set WEBHOOK_SECRETS to the service's, or the newest of them.")
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8090
    with ThreadingHTTPServer(("127.0.0.1", port), Receiver) as server:
        print(f"waiting at http://127.0.0.1:{server.server_port}/", file=sys.stderr, flush=True)
        server.serve_forever()

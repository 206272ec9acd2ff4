"""The floor: `http.server` with macule's decoder and runtime, without its service."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from macule.inference import decoding, runtime


def classify(body: bytes) -> list[float]:
    """Decode and classify; the first call loads the model."""
    model = runtime.get_or_load(os.environ["MODEL_DIR"])
    size = decoding.sides(model.card.side_px)
    return runtime.run(model, decoding.decode(body, size, model.card.resize).picture).probabilities


class Handler(BaseHTTPRequestHandler):
    """GET is ok, POST is a prediction."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(b"ok")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(json.dumps({"probabilities": classify(body)}).encode())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()

"""The floor: `http.server` with the same runtime, without any feature of macule."""

import io
import json
import os
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

LOCK = Lock()


@cache
def loaded() -> Any:
    """Load the model at the first request."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=os.environ["MODEL_FILE"], num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def classify(body: bytes) -> list[float]:
    """Decode, scale to -1..1 and classify."""
    import numpy as np
    from PIL import Image

    with LOCK:
        interpreter = loaded()
        source = interpreter.get_input_details()[0]
    _, height, width, _ = source["shape"]
    image = Image.open(io.BytesIO(body))
    image.draft("RGB", (width, height))
    pixels = np.asarray(image.convert("RGB").resize((width, height)), np.float32)[None]
    values = (pixels - 127) / 128
    if source["dtype"] != np.float32:
        scale, zero = source["quantization"]
        values = np.clip(np.round(values / scale) + zero, -128, 127).astype(source["dtype"])
    with LOCK:
        interpreter.set_tensor(source["index"], values)
        interpreter.invoke()
        outputs = [
            interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()
        ]
    return [float(value) for value in next(row for row in outputs if row.ndim == 2)[0]]


class Handler(BaseHTTPRequestHandler):
    """GET is ok, POST is a prediction."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(b"ok")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(json.dumps({"logits": classify(body)}).encode())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()

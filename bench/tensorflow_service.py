"""What macule replaces, in its smallest form: Keras behind WSGI, which decodes the whole photo."""

import io
import json
import os
from collections.abc import Iterable
from functools import cache
from typing import Any

MODEL = os.environ.get("MODEL_FILE", "")


@cache
def loaded() -> Any:
    """Load the Keras model in the process that serves it."""
    import keras

    return keras.saving.load_model(MODEL, compile=False)


def classify(photo: bytes) -> list[float]:
    """Decode as scripts do, and classify."""
    import numpy as np
    from PIL import Image

    model = loaded()
    side = model.input_shape[1]
    image = Image.open(io.BytesIO(photo)).convert("RGB").resize((side, side))
    shares: list[float] = model.predict(np.asarray(image, np.float32)[None], verbose=0)[0].tolist()
    return shares


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer GET with ok and POST with probabilities."""
    body = b"ok"
    if environ["REQUEST_METHOD"] == "POST":
        photo = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        body = json.dumps({"probabilities": classify(photo)}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

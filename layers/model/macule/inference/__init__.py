"""From image bytes to a prediction: decoding, the runtime, the Python API; no HTTP, no queue."""

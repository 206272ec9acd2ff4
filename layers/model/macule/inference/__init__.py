"""Image bytes to a prediction: decoding, the runtime, the Python API. No HTTP, no queue."""

"""Offline: a Keras model in, a quantized LiteRT model and its figures out."""

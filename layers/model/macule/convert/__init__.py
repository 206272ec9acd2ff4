"""Offline conversion of a Keras or TensorFlow model to quantized LiteRT; not used to serve."""

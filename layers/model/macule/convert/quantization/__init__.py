"""Quantization of a float LiteRT file, and the comparison with the original."""

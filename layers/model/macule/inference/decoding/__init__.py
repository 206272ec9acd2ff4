"""Decoding of an image file to one model input: formats, memory cost, colour; pure.

Shared by conversion, evaluation, serving and the Python API.
"""

from macule.inference.decoding.formats import SUPPORTED, prepare, slow_image
from macule.inference.decoding.header import Header, inspect
from macule.inference.decoding.pixels import Decoded, decode, fit, measure, sides

__all__ = [
    "SUPPORTED",
    "Decoded",
    "Header",
    "decode",
    "fit",
    "inspect",
    "measure",
    "prepare",
    "sides",
    "slow_image",
]

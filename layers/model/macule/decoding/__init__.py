"""A file's bytes to one model input: formats, their price, their colours. Pure; knows no network.

Conversion, evaluation, serving and the Python API share it.
"""

from macule.decoding.formats import SERVED, prepare, slow
from macule.decoding.header import Header, inspect
from macule.decoding.pixels import Decoded, decode, fit, measure, sides

__all__ = [
    "SERVED",
    "Decoded",
    "Header",
    "decode",
    "fit",
    "inspect",
    "measure",
    "prepare",
    "sides",
    "slow",
]

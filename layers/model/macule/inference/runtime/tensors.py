"""Conversions between pixels, network input and network outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def arrange(pixels: NDArray[np.uint8], channels: str) -> NDArray[np.uint8]:
    """Convert RGB pixels (n, h, w, 3) to the channels of the network: rgb, bgr or gray.

    Gray is ITU-R 601 luma in Pillow's fixed point, equal to `convert("L")`.
    """
    import numpy as np

    if channels == "rgb":
        return pixels
    if channels == "bgr":
        return pixels[..., ::-1]
    luma = pixels @ np.array([19595, 38470, 7471], np.uint32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]


def as_logits(scores: NDArray[np.float32], output: str) -> NDArray[np.float32]:
    """Convert a model's scores to logits; *output* is the card's kind of scores."""
    import numpy as np

    if output == "logits":
        return scores
    shares = np.clip(scores, 1e-7, 1.0)  # a quantized 0 is less than half a step of 1/256
    if output == "sigmoid":
        shares = np.concatenate([np.clip(1 - scores, 1e-7, 1.0), shares])
    logarithms: NDArray[np.float32] = np.log(shares)
    return logarithms


def quantize(values: NDArray[np.float32], details: dict[str, Any]) -> NDArray[Any]:
    """Convert network input to the dtype of the model's input."""
    import numpy as np

    dtype = np.dtype(details["dtype"])
    if dtype.kind == "f":
        return values.astype(dtype)
    scale, zero = details["quantization"]
    bounds = np.iinfo(dtype)
    levels: NDArray[np.float32] = np.clip(np.round(values / scale) + zero, bounds.min, bounds.max)
    return levels.astype(dtype)


def dequantize(raw: NDArray[Any], details: dict[str, Any]) -> NDArray[np.float32]:
    """Convert a model output to float32."""
    import numpy as np

    values = raw.astype(np.float32, copy=False)
    if raw.dtype.kind == "f":
        return values
    scale, zero = details["quantization"]
    return (values - np.float32(zero)) * np.float32(scale)

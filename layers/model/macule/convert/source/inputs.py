"""A model's inputs: the one that takes the image, and constants for all others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from macule.convert.errors import ConversionError

Shape = tuple[int | None, int | None, int]


class Input(NamedTuple):
    """One input of a model."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str


def find_image_input(name: str, inputs: list[Input], constants: Mapping[str, float]) -> int:
    """Find the input that takes the image; all others need a constant.

    Raises: Refused.
    """
    names = [item.name for item in inputs]
    strange = sorted(set(constants) - set(names))
    if strange:
        raise ConversionError(
            f"{name} has no input {strange[0]} to hold constant: its inputs are {', '.join(names)}."
        )
    free = [place for place, item in enumerate(inputs) if item.name not in constants]
    pictures = [place for place in free if is_image(inputs[place])]
    if len(free) == 1 and pictures:
        return free[0]
    if not pictures:
        shown = ", ".join(format_input(inputs[place]) for place in free) or "none that is free"
        raise ConversionError(
            f"{name} does not take an image (input: {shown}): give a model whose input is "
            "(height, width, 1 or 3 channels), channels last."
        )
    others = [place for place in free if place != pictures[0]]
    flags = " ".join(f"--constant {names[place]}=0" for place in others)
    raise ConversionError(
        f"{name} takes {len(free)} inputs ({', '.join(format_input(inputs[p]) for p in free)}): give "
        f"all but the image a constant, such as {flags}."
    )


def is_image(item: Input) -> bool:
    """Tell whether an input can be (n, height, width, channels) of numbers."""
    shape = item.shape
    if shape is None or len(shape) != 4 or item.dtype in ("string", "bool"):
        return False
    return shape[3] in (1, 3) or (shape[3] is None and shape[1] not in (1, 3))


def format_input(item: Input) -> str:
    """Write an input with its shape."""
    sizes = "x".join("?" if size is None else str(size) for size in (item.shape or ())[1:])
    return f"{item.name} {sizes or item.dtype}"


def image_shape(name: str, item: Input) -> Shape:
    """Height, width and channels of the image input; a free channel axis is colour."""
    _, height, width, channels = item.shape or (None, None, None, None)
    return height, width, channels or 3


def build_inputs(
    image: Any, inputs: list[Input], place: int, constants: Mapping[str, float]
) -> list[Any]:
    """Set out all inputs: the image at its place, constants of the same batch at the others."""
    import tensorflow as tf

    values = []
    for index, item in enumerate(inputs):
        dtype = tf.as_dtype(item.dtype)
        if index == place:
            values.append(tf.cast(tf.round(image) if dtype.is_integer else image, dtype))
            continue
        sizes = [1 if size is None else size for size in (item.shape or ())[1:]]
        values.append(tf.cast(tf.fill([image.shape[0], *sizes], constants[item.name]), dtype))
    return values

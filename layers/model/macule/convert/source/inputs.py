"""The inputs of a model: one for the image, and constants for all others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from macule.convert.errors import BadInput

Shape = tuple[int | None, int | None, int]


class Input(NamedTuple):
    """One input of a model."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str


def find_image_input(name: str, inputs: list[Input], constants: Mapping[str, float]) -> int:
    """Return the index of the image input; all other inputs need a constant.

    Raises: BadInput.
    """
    names = [item.name for item in inputs]
    unknown = sorted(set(constants) - set(names))
    if unknown:
        raise BadInput(
            f"{name} has no input {unknown[0]} for --constant: its inputs are {', '.join(names)}."
        )
    free = [place for place, item in enumerate(inputs) if item.name not in constants]
    images = [place for place in free if is_image(inputs[place])]
    if len(free) == 1 and images:
        return free[0]
    if not images:
        shown = ", ".join(format_input(inputs[place]) for place in free)
        shown = shown or "none without a constant"
        raise BadInput(
            f"{name} does not accept an image (input: {shown}): use a model whose input is "
            "(height, width, 1 or 3 channels), channels last."
        )
    others = [place for place in free if place != images[0]]
    flags = " ".join(f"--constant {names[place]}=0" for place in others)
    raise BadInput(
        f"{name} has {len(free)} inputs ({', '.join(format_input(inputs[p]) for p in free)}): give "
        f"each input except the image a constant, such as {flags}."
    )


def is_image(item: Input) -> bool:
    """Return whether an input can be numeric (n, height, width, channels)."""
    shape = item.shape
    if shape is None or len(shape) != 4 or item.dtype in ("string", "bool"):
        return False
    return shape[3] in (1, 3) or (shape[3] is None and shape[1] not in (1, 3))


def format_input(item: Input) -> str:
    sizes = "x".join("?" if size is None else str(size) for size in (item.shape or ())[1:])
    return f"{item.name} {sizes or item.dtype}"


def image_shape(item: Input) -> Shape:
    """Return height, width and channels of the image input; a free channel axis is 3."""
    _, height, width, channels = item.shape or (None, None, None, None)
    return height, width, channels or 3


def build_inputs(
    image: Any, inputs: list[Input], place: int, constants: Mapping[str, float]
) -> list[Any]:
    """Build the tensors of all inputs: the image, and constants of the same batch size."""
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

"""The small classifier and its inputs, made once for the tests of quantization."""

import numpy as np
import pytest
from macule.convert.evaluation import batch_inference
from numpy.typing import NDArray
from support import small_model


@pytest.fixture(scope="package")
def content() -> bytes:
    """Return the small classifier."""
    return small_model.content()


@pytest.fixture(scope="package")
def images() -> list[NDArray[np.float32]]:
    """Return scaled inputs, one by one."""
    return [
        batch_inference.scale(image[None], small_model.SCALING) for image in small_model.pixels()
    ]

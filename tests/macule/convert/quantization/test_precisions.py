"""The order of the candidates, and the search for operators that int8 harms."""

import itertools
import re

import numpy as np
import pytest
from macule.convert import export
from macule.convert.evaluation import batch_inference, metrics
from macule.convert.quantization import candidates, quantize
from support import small_model


def no_output(line: str) -> None:
    """Print nothing."""


@pytest.fixture(scope="module")
def candidates_made() -> list[candidates.Candidate]:
    """Return every candidate of the small classifier."""
    found = candidates.generate_candidates(
        small_model.content(), small_model.pixels(), small_model.SCALING, "auto", no_output
    )
    return list(found)


@pytest.mark.slow
def test_auto_offers_every_precision(candidates_made: list[candidates.Candidate]) -> None:
    """int8 comes first and the original last, each under its own name."""
    names = [each.name for each in candidates_made]

    assert names[:2] == ["int8", "int8, float head"]
    assert names[-3:] == ["dynamic", "fp16", "fp32"]
    assert len(set(names)) == len(names)
    assert candidates_made[-1].content == small_model.content()
    assert {each.precision for each in candidates_made} == {"int8", "dynamic", "fp16", "fp32"}


@pytest.mark.parametrize("wanted", ["int8", "dynamic", "fp16", "fp32"])
def test_one_precision_alone(wanted: str) -> None:
    """A precision chosen by name is the only candidate."""
    found = candidates.generate_candidates(
        small_model.content(), small_model.pixels(8), small_model.SCALING, wanted, no_output
    )

    assert {each.precision for each in found} == {wanted}


def test_candidates_are_made_lazily() -> None:
    """The first candidate is returned before the others are made."""
    messages: list[str] = []
    found = candidates.generate_candidates(
        small_model.content(), small_model.pixels(8), small_model.SCALING, "auto", messages.append
    )

    assert next(found).name == "int8"
    assert len(messages) == 1


def test_a_failing_candidate_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the quantizer fails, its candidates have the reason, and the others are still made."""

    def fail(*_: object) -> bytes:
        raise KeyError("no such tensor")

    monkeypatch.setattr(quantize, "quantize_static", fail)
    found = candidates.generate_candidates(
        small_model.content(), small_model.pixels(8), small_model.SCALING, "auto", no_output
    )
    found = {each.name: each for each in found}

    assert found["int8"].error == "it cannot be created (KeyError: 'no such tensor')"
    assert not found["int8, float head"].content
    assert all(found[name].content for name in ("dynamic", "fp16", "fp32"))


def test_a_network_with_comparisons_is_quantized() -> None:
    """Boolean tensors have ranges too: a network with `where` becomes int8."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(3)
    inputs = keras.Input((small_model.SIDE_PX, small_model.SIDE_PX, 3))
    x = keras.layers.Conv2D(8, 3, 2)(inputs)
    x = keras.ops.where(keras.ops.greater(x, 0.0), x, 0.1 * x)
    body = keras.Model(inputs, keras.layers.Conv2D(8, 3, 2)(x))
    content = export.export_with_head(body, np.ones((8, 3), np.float32), np.zeros(3, np.float32))

    first = next(
        candidates.generate_candidates(
            content, small_model.pixels(8), small_model.SCALING, "int8", no_output
        )
    )

    assert (first.error, bool(first.content)) == ("", True)


def test_rounding_and_a_float_head_reduce_the_error(
    candidates_made: list[candidates.Candidate],
) -> None:
    """On unseen images rounding and a float head halve int8's mean change."""
    pixels = small_model.pixels(seed=9)
    reference = metrics.softmax(
        batch_inference.logits(small_model.content(), pixels, small_model.SCALING)
    )

    change = {
        each.name: metrics.compare_probabilities(
            metrics.softmax(batch_inference.logits(each.content, pixels, small_model.SCALING)),
            reference,
        )["mean_change"]
        for each in candidates_made
    }

    assert change["int8, float head"] < change["int8"] / 2


def test_the_worst_segment_is_found() -> None:
    """int8 is dropped where one channel is a thousand times as wide as its neighbours."""
    content = small_model.content(outlier=1000.0)
    head = quantize.float_pattern(content)
    images = [
        batch_inference.scale(image[None], small_model.SCALING) for image in small_model.pixels()
    ]
    found = quantize.calibrate_ranges(
        content, images, batch_inference.scaled_bounds(small_model.SCALING)
    )
    names = candidates.operator_names(content, head)
    cuts = candidates.split_segments(names)

    best = candidates.rank_segments(
        cuts,
        lambda pattern: quantize.quantize_static(
            content, found, f"{head}|{pattern}" if pattern else head
        ),
        batch_inference.logits(content, small_model.pixels(), small_model.SCALING),
        small_model.pixels(),
        small_model.SCALING,
        most_growth=np.inf,
    )

    (worst,) = (name for name in names if re.search(cuts[best[0]], name))
    assert "wide" in worst or "last" in worst


def test_segments_cover_the_network_once() -> None:
    """Every operator is in exactly one segment, for any characters in its name."""
    names = [f"block_{index}/conv(a|b)+{index};" for index in range(60)]

    cuts = candidates.split_segments(names)

    found = [[name for name in names if re.search(pattern, name)] for pattern in cuts.values()]
    assert list(itertools.chain(*found)) == names

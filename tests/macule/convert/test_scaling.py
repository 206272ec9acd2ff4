"""Detection of the scaling, and its confidence."""

import numpy as np
import pytest
from macule.convert import scaling
from macule.convert.errors import BadInput
from macule.convert.scaling import ScalingTrial
from macule.convert.source.load import Source


def source(backbone: str | None = None, scales: bool = False, channels: int = 3) -> Source:
    """Return a model of which only the facts about scaling are set."""
    known = {
        "kind": "Keras 3", "height": 32, "width": 32, "channels": channels, "classes": 2,
        "output": "softmax", "scaling_layers": ("Rescaling",) if scales else (),
        "takes_raw_pixels": scales,
        "backbone": backbone, "size_mb": 1.0, "model": None,
    }  # fmt: skip
    return Source(**{name: known[name] for name in Source._fields})


def tried(
    name: str, right: int, of: int = 100, channels: str = "rgb", loss: float = 0.0
) -> ScalingTrial:
    answers = np.arange(of) < right
    losses = np.where(answers, 0.2, 1.5) + loss
    return ScalingTrial(name, channels, right / of, right / of, 0.5, answers, losses)


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("MobileNetV2", "-1..1"),
        ("MobileNetV3Small", "none"),
        ("ResNet50", "caffe"),
        ("ResNet50V2", "-1..1"),
        ("VGG16", "caffe"),
        ("DenseNet121", "imagenet"),
        ("teachable-machine", "-1..1"),
    ],
)
def test_a_known_backbone_has_a_convention(backbone: str, expected: str) -> None:
    """Without images the convention of the backbone's family is used and named."""
    choice = scaling.choose(source(backbone), [], "auto", None, False)

    assert (choice.name, choice.sure) == (expected, "convention")
    assert choice.channels == ("bgr" if expected == "caffe" else "rgb")


def test_a_model_that_scales_itself_gets_raw_pixels() -> None:
    """Scaling layers inside the model are found, for any backbone."""
    choice = scaling.choose(source("MobileNetV2", scales=True), [], "auto", None, False)

    assert (choice.name, choice.sure) == ("none", "found")
    assert "Rescaling" in choice.why


def test_an_unknown_scaling_is_an_assumption() -> None:
    """Without evidence a division by 255 is assumed, and named an assumption."""
    assert scaling.choose(source(), [], "auto", None, False).sure == "assumed"


def test_a_clearly_better_scaling_wins_over_convention() -> None:
    """Labelled images override the convention of a name."""
    table = [tried("-1..1", 60), tried("0..1", 90)]
    choice = scaling.choose(source("MobileNetV2"), table, "auto", None, False)

    assert (choice.name, choice.sure) == ("0..1", "found")


def test_a_random_difference_does_not() -> None:
    """One more correct image does not override the convention."""
    table = [tried("-1..1", 60), tried("0..1", 61)]

    assert scaling.choose(source("MobileNetV2"), table, "auto", None, False).name == "-1..1"


def test_close_scores_are_decided_by_log_loss() -> None:
    """Without a convention and with equal accuracy, the lowest log-loss is chosen."""
    table = [tried("0..1", 61, loss=0.4), tried("-1..1", 60)]
    choice = scaling.choose(source(), table, "auto", None, False)

    assert (choice.name, choice.sure) == ("-1..1", "found")


def test_undecided_scalings_are_only_likely() -> None:
    """Two scalings with equal scores are reported as likely, with the alternative."""
    noise = np.random.default_rng(0).normal(0, 1, 100)
    table = [tried("0..1", 60), tried("-1..1", 60)]
    table[1] = table[1]._replace(losses=table[1].losses + noise)
    choice = scaling.choose(source(), table, "auto", None, False)

    assert choice.sure == "likely"
    assert choice.name == "0..1"
    assert "-1..1 in rgb fits as well" in choice.why


def test_swapped_channels_are_found() -> None:
    """A network trained on BGR is recognised by its accuracy."""
    table = [tried("0..1", 50), tried("0..1", 95, channels="bgr")]

    assert scaling.choose(source(), table, "auto", None, False).channels == "bgr"


def test_a_wrong_option_is_rejected_unless_forced() -> None:
    """A given scaling that scores clearly worse is an error with both figures."""
    table = [tried("none", 40), tried("0..1", 90)]
    with pytest.raises(BadInput, match=r"90\.0%.*40\.0%"):
        scaling.choose(source(), table, "none", None, False)

    assert scaling.choose(source(), table, "none", None, True).sure == "forced"


def test_numbers_follow_the_channels() -> None:
    """Mean and std are in the order of the channels; gray has one of each."""
    assert scaling.mean_and_std("caffe", "bgr")[0] == (103.939, 116.779, 123.68)
    assert scaling.mean_and_std("-1..1", "gray") == ((127.5,), (127.5,))

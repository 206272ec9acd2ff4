"""Prices and room."""

import threading
import time

import pytest
from draw import photo, saved, skin
from macule import image
from macule.admission import RESERVE_BYTES, Admission, price
from macule.errors import Busy, CannotFit

MB = 2**20


def priced(body: bytes) -> float:
    return price(image.inspect(body, 10**9), 224) / MB


def test_what_costs_more_is_priced_higher() -> None:
    """A baseline JPEG is cheap, a progressive one dear, a PNG dearer, a WebP dearest."""
    drawn = skin(2000, 1500)
    costs = [
        priced(saved(drawn, "JPEG")),
        priced(saved(drawn, "JPEG", progressive=True)),
        priced(saved(drawn, "PNG", compress_level=1)),
        priced(saved(drawn, "WEBP", method=0)),
    ]

    assert costs == sorted(costs)
    assert costs[0] < 4
    assert costs[3] > 4 * costs[2] - 15


def test_a_long_strip_is_not_priced_as_if_it_shrank() -> None:
    """libjpeg shrinks only what is large on both sides."""
    assert priced(photo(12000, 230)) > 10


def test_what_can_never_fit_is_refused_at_once_with_figures() -> None:
    """With nothing held, waiting would not help: 507 and the numbers."""
    admission = Admission(100 * MB, lambda: 60 * MB)

    with pytest.raises(CannotFit) as caught, admission.room(50 * MB, timeout_s=60):
        pass

    assert caught.value.figures == {"estimated_peak_mb": 50.0, "free_mb": 37.0, "limit_mb": 100.0}


def test_what_does_not_fit_now_waits_for_its_turn() -> None:
    """A second large image begins when the first has ended."""
    admission = Admission(100 * MB + RESERVE_BYTES, lambda: 0)
    events = []

    def second() -> None:
        with admission.room(60 * MB, timeout_s=30):
            events.append("second begins")

    with admission.room(60 * MB, timeout_s=0):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
        events.append("first ends")
    thread.join()

    assert events == ["first ends", "second begins"]
    assert (admission.held, admission.admitted) == (0, 0)


def test_the_wait_is_bounded() -> None:
    """After the time-out the answer is busy, with the same figures."""
    admission = Admission(100 * MB, lambda: 0)

    with admission.room(60 * MB, 0), pytest.raises(Busy), admission.room(60 * MB, 0.01):
        pass

    assert admission.held == 0


def test_room_is_given_back_when_decoding_fails() -> None:
    """An image that turns out broken leaves nothing held."""
    admission = Admission(100 * MB, lambda: 0)

    with pytest.raises(ValueError, match="broken"), admission.room(10 * MB, 0):
        raise ValueError("broken")

    assert admission.held == 0

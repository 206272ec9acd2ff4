"""Progress on a terminal and in a log."""

import io
import time

from macule.convert.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_few_complete_lines() -> None:
    """In a log a long step is at most SHARES lines and its end."""
    stream = io.StringIO()
    progress = Progress(2, stream)
    progress.step("first")
    list(progress.track(range(1000), 1000, "images"))

    lines = stream.getvalue().splitlines()
    assert lines[0] == "[1/2] first"
    assert len(lines) <= 6
    assert lines[-1].startswith("      images: 1000 in ")
    assert "\r" not in stream.getvalue()


def test_a_terminal_shows_the_time_left() -> None:
    """On a terminal one changing line shows the time left."""
    stream = Terminal()
    for _ in Progress(1, stream).track(range(3), 3, "images"):
        time.sleep(0.25)

    assert "\r" in stream.getvalue()
    assert "s left" in stream.getvalue()

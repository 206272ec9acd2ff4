"""Output of compiled code while a model loads."""

import subprocess
import sys

LINES = r"os.write(2, b'INFO: made a delegate\nERROR: no memory\n')"


def run(block: str) -> subprocess.CompletedProcess[str]:
    start = "import os\nfrom macule.inference import native_stderr\n"
    code = f"{start}with native_stderr.filtered():\n    {block}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


def test_info_lines_are_dropped_and_errors_kept() -> None:
    """INFO lines are dropped, others follow the block, and the descriptor is restored."""
    done = run(f"{LINES}\nos.write(2, b'after')")

    assert (done.returncode, done.stderr) == (0, "ERROR: no memory\nafter")


def test_everything_is_shown_if_the_block_fails() -> None:
    """The lines before an exception may explain it."""
    done = run(f"{LINES}; raise SystemExit(3)")

    assert done.returncode == 3
    assert done.stderr == "INFO: made a delegate\nERROR: no memory\n"


def test_large_output_does_not_block() -> None:
    """More output than a pipe holds is an error for its writer, never a wait."""
    done = run("n = 0\n    try:\n        while n < 2**20: n += os.write(2, bytes(4096))\n"
               "    except BlockingIOError: pass\nassert 2**12 <= n < 2**20")  # fmt: skip

    assert done.returncode == 0


def test_a_crash_is_reported() -> None:
    """A signal that ends the process inside the block leaves Python's report."""
    done = run("os.abort()")

    assert done.returncode < 0
    assert "Fatal Python error: Aborted" in done.stderr

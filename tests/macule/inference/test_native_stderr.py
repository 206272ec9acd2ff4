"""What compiled code writes while a model loads."""

import subprocess
import sys

LINES = r"os.write(2, b'INFO: made a delegate\nERROR: no memory\n')"


def run(block: str) -> subprocess.CompletedProcess[str]:
    start = "import os\nfrom macule.inference import native_stderr\n"
    code = f"{start}with native_stderr.filtered():\n    {block}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


def test_information_goes_and_errors_stay() -> None:
    """INFO lines are dropped, all others come after the block, and the descriptor is as before."""
    done = run(f"{LINES}\nos.write(2, b'after')")

    assert (done.returncode, done.stderr) == (0, "ERROR: no memory\nafter")


def test_all_is_told_where_the_block_fails() -> None:
    """What preceded an exception may explain it."""
    done = run(f"{LINES}; raise SystemExit(3)")

    assert done.returncode == 3
    assert done.stderr == "INFO: made a delegate\nERROR: no memory\n"


def test_no_amount_of_it_stands_still() -> None:
    """More than a pipe takes is an error to the one who writes, never a wait."""
    done = run("n = 0\n    try:\n        while n < 2**20: n += os.write(2, bytes(4096))\n"
               "    except BlockingIOError: pass\nassert 2**12 <= n < 2**20")  # fmt: skip

    assert done.returncode == 0


def test_a_crash_is_told() -> None:
    """A signal that ends the process within the block leaves Python's report of where it was."""
    done = run("os.abort()")

    assert done.returncode < 0
    assert "Fatal Python error: Aborted" in done.stderr

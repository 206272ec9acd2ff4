"""The processes of a service and their memory, from /proc and from psutil."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from macule.memory import processes

MB = 2**20
READERS = ["/proc", "/nowhere"]  # without /proc psutil is used


@pytest.fixture(params=READERS, ids=["proc", "psutil"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(processes, "PROC", request.param)
    return str(request.param)


def test_this_process_is_measured(reader: str) -> None:
    """The sums are those of a running process."""
    usage = processes.usage([os.getpid()])

    assert 5 * MB < usage.pss <= usage.rss <= usage.peak
    assert usage.rss < usage.vms
    assert usage.rss / 2 < processes.resident_bytes() < usage.rss * 2
    assert 0 < processes.private_bytes() <= usage.rss
    assert os.getpid() in processes.service_pids()


def test_two_processes_are_summed(reader: str) -> None:
    """Another process is added to this one."""
    with subprocess.Popen(["sleep", "60"]) as child:
        both = processes.usage([os.getpid(), child.pid])
        alone = processes.usage([child.pid])
        child.kill()

    assert 0 < alone.rss < both.rss
    assert 0 < alone.vms < both.vms


@pytest.mark.parametrize("place", READERS, ids=["proc", "psutil"])
def test_the_age_is_that_of_the_process(place: str) -> None:
    """A new process is younger than the time since it was started.

    psutil counts from the boot time, which Linux gives in whole seconds.
    """
    code = (
        "import time; from macule.memory import processes\n"
        f"processes.PROC = {place!r}; age_ms = processes.age_ms(); time.sleep(0.2)\n"
        "import json; print(json.dumps([age_ms, processes.age_ms()]))"
    )
    began = os.times().elapsed
    before, after = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    spent_ms = (os.times().elapsed - began) * 1e3

    assert before + 150 < after
    assert abs(after) < spent_ms + (50 if place == "/proc" else 1050)


# A first process forks a worker, which starts a program; its parent shell is not part of it.
FAMILY = """
import os, subprocess, sys, time
from macule.memory import processes

processes.PROC = sys.argv[2]
processes.root_pid()
if os.fork() == 0:
    child = subprocess.Popen(["sleep", "60"])
    arbiter, own = os.getppid(), {os.getpid(), child.pid}
    print(set(processes.service_pids()) == {arbiter, *own}, flush=True)
    if sys.argv[1] == "killed":
        os.kill(arbiter, 9)
        while os.getppid() == arbiter:
            time.sleep(0.01)
        print(set(processes.service_pids()) == own, flush=True)
    child.kill()
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("place", READERS, ids=["proc", "psutil"])
@pytest.mark.parametrize("arbiter", ["lives", "killed"])
def test_a_service_is_its_first_process_and_descendants(arbiter: str, place: str) -> None:
    """Only workers and their children count, even if the first process was killed."""
    program = f"{sys.executable} -c '{FAMILY}' {arbiter} {place}"
    shell = f"{program} & sleep 60 & own=$!; wait %1; kill $own"
    run = subprocess.run(
        ["sh", "-c", shell], capture_output=True, text=True, timeout=30, check=False
    )

    assert run.stdout.split() == ["True"] * (1 if arbiter == "lives" else 2), run.stderr


def test_without_both_only_this_process_is_known(tmp_path: Path) -> None:
    """Without /proc and psutil only the peak of this process is known."""
    code = (
        "import os, sys; sys.modules['psutil'] = None\n"
        "from macule.memory import processes; processes.PROC = '/nowhere'\n"
        "assert processes.service_pids() == [os.getpid()]\n"
        "assert processes.usage([os.getpid()]) == (0, 0, 0, 0)\n"
        "assert processes.resident_bytes() > 2**20 and processes.private_bytes() > 2**20\n"
        "assert processes.age_ms() == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_an_ended_process_counts_as_zero(reader: str) -> None:
    """A worker may end between being listed and being read."""
    assert processes.usage([2**22 + 1]) == (0, 0, 0, 0)

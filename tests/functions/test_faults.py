"""Full or read-only disks, no home, no permissions: one part reports it, the rest works."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.images import photo
from support.load_clients import children
from support.mounts import fill, mounts
from support.service import ROOT, Service, running, until

SERVE = "exec .venv/bin/python -m infra.serve"
START = ".venv/bin/python -m infra.serve"
CANNOT = "is not a folder that can be written"
Start = Callable[..., Service]


root = pytest.mark.skipif(os.geteuid() != 0, reason="this is no root, so all tests are the proof")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a service from shell lines; lines that begin with `mount` get their own mounts."""
    with ExitStack() as stack:

        def begin(*lines: str, **environment: str) -> Service:
            script = tmp_path / "start.sh"
            script.write_text("\n".join(["set -e", *lines, ""]))
            own = "unshare -m " if lines[0].startswith("mount") else ""
            command = f"{own}bash {script}"
            return stack.enter_context(running(command, tmp_path, **environment))

        yield begin


def inside(service: Service, path: str) -> Path:
    """Return a path inside the service's own mounts."""
    return Path(f"/proc/{service.process.pid}/root{path}")


@mounts
@pytest.mark.parametrize(
    ("option", "why"),
    [("size=64k", "No space left on device"), ("ro", "Read-only file system")],
)
def test_a_disk_without_space_prevents_the_start(tmp_path: Path, option: str, why: str) -> None:
    """A full or read-only DATA_DIR prevents the start, with one line."""
    filled = "" if option == "ro" else f"cat /dev/zero > {tmp_path}/filler 2>/dev/null || true;"
    lines = f"mount -t tmpfs -o {option} tmpfs {tmp_path}; {filled} exec {START}"
    environment = {**os.environ, "DATA_DIR": str(tmp_path)}
    command = ["unshare", "-m", "bash", "-c", lines]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 1
    assert done.stderr == f"macule: DATA_DIR={str(tmp_path)!r} {CANNOT}: {why}\n"


@mounts
def test_a_full_disk_with_jobs_allows_the_start(start: Start, tmp_path: Path) -> None:
    """With an existing queue on a full disk, new predictions are rejected and photos answered."""
    data = tmp_path / "data"
    data.mkdir()
    service = start(
        f"mount -t tmpfs -o size=64k tmpfs {data}",
        f"touch {data}/jobs.sqlite3",
        f"cat /dev/zero > {data}/filler || true",
        f"exec {START}",
    )

    assert service.call("POST", "/predictions", photo()).status == 503
    assert service.predict(photo()).status == 200


@mounts
def test_a_full_disk_rejects_only_jobs(start: Start, tmp_path: Path) -> None:
    """Predictions that cannot be stored get 503; other requests work, and later these too."""
    data = tmp_path / "data"
    data.mkdir()
    service = start(f"mount -t tmpfs -o size=4m tmpfs {data}", SERVE)
    filler = inside(service, f"{data}/filler")
    fill(filler)
    full = service.call("POST", "/predictions", photo())
    direct, health = service.predict(photo()), service.call("GET", "/health/")
    filler.unlink()
    after = service.call("POST", "/predictions", photo(64, 64))
    where = after.headers["location"]

    assert (full.status, full.json()["type"]) == (503, "urn:macule:problem:queue-unavailable")
    assert (direct.status, health.status, after.status) == (200, 200, 202)
    until(lambda: service.call("GET", where).json()["status"] == "succeeded")


@mounts
def test_accepted_jobs_end_on_a_full_disk(start: Start, tmp_path: Path) -> None:
    """On 12 MB each prediction is rejected with figures or ends, even after a kill."""
    data = tmp_path / "data"
    data.mkdir()
    service = start(f"mount -t tmpfs -o size=12m tmpfs {data}", SERVE)
    filler = inside(service, f"{data}/filler")
    body = photo() + bytes(400_000)
    asked = [service.call("POST", "/predictions?explain=cam", body)]
    while asked[-1].status == 202:  # results stay, so that the disk fills up
        asked.append(service.call("POST", "/predictions?explain=cam", body))
    fill(filler)
    (worker,) = children(service.process.pid)
    os.kill(worker, 9)
    until(lambda: children(service.process.pid) - {worker})
    late = service.call("POST", "/predictions", body)  # since earlier results may have expired
    filler.unlink()
    accepted = [each.headers["location"] for each in (*asked, late) if each.status == 202]
    refused = [answer for answer in asked if answer.status != 202]

    assert accepted
    assert refused
    for answer in refused:
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["free_mb"] <= answer.json()["needed_mb"]
    assert late.status in (202, 503)
    for where in accepted:
        until(lambda where=where: service.call("GET", where).json()["status"] == "succeeded", 60)


def test_an_unwritable_log_stops_nothing(start: Start) -> None:
    """With standard output and error on a full disk, all requests are answered."""
    service = start(f"{SERVE} >/dev/full 2>&1")
    statuses = [service.predict(photo()).status, service.predict(b"no photo").status]
    (worker,) = children(service.process.pid)
    os.kill(worker, 9)

    assert statuses == [200, 415]
    until(lambda: children(service.process.pid) - {worker})
    assert service.predict(photo()).status == 200


@mounts
@pytest.mark.parametrize(("temporary", "status"), [(True, 202), (False, 503)])
def test_a_read_only_disk_serves(
    start: Start, tmp_path: Path, temporary: bool, status: int
) -> None:
    """With one writable folder for gunicorn and no home, photos are answered.

    If that folder is not the one for temporary files, predictions that must be stored are rejected.
    """
    folder = tmp_path / "writable"
    folder.mkdir()
    service = start(
        "mount --make-rprivate /",
        f"mount -t tmpfs tmpfs {folder}",
        "for place in $(awk '{print $5}' /proc/self/mountinfo); do",
        f'  case "$place" in {folder}|/proc*|/sys*) ;;',
        '  *) mount -o remount,bind,ro "$place" 2>/dev/null || true ;; esac',
        "done",
        "unset HOME DATA_DIR TMPDIR",
        f"export TMPDIR={folder}" if temporary else "true",
        f"{SERVE} --worker-tmp-dir {folder}",
    )
    predicted = service.predict(photo())
    kept = service.call("POST", "/predictions", photo())

    assert (predicted.status, kept.status) == (200, status)
    assert service.call("GET", "/memory/").status == 200


@root
def test_an_unprivileged_user_without_home_can_serve(start: Start) -> None:
    """A user without a home who can write only temporary files serves photos and jobs."""
    rights = "--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search"
    who = "--reuid=65534 --regid=65534 --clear-groups"
    service = start(
        "unset HOME DATA_DIR",
        "export TMPDIR=$(mktemp -d)",
        "chmod 777 $TMPDIR",
        SERVE.replace("exec", f"exec setpriv {who} {rights} --bounding-set=-all,+dac_read_search"),
    )
    answer = service.predict(photo())
    kept = service.call("POST", "/predictions", photo())
    (worker,) = children(service.process.pid)
    ids = Path(f"/proc/{worker}/status").read_text()

    assert "Uid:\t65534\t65534\t65534\t65534" in ids
    assert (answer.status, kept.status) == (200, 202)


def test_a_damaged_queue_allows_the_start(start: Start, tmp_path: Path) -> None:
    """With an invalid queue file, background predictions are rejected and the rest works."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/jobs.sqlite3").write_bytes(b"no database" * 1000)
    service = start(SERVE)
    kept, answer = service.call("POST", "/predictions", photo()), service.predict(photo())

    assert (kept.status, kept.json()["type"]) == (503, "urn:macule:problem:queue-unavailable")
    assert answer.status == 200

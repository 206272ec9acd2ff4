"""The outbox and its delivery thread: messages arrive, whatever dies or hangs."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from macule.jobs import COMPLETED_EVENT, EVENTS, STARTED_EVENT, JobOptions
from macule.jobs.embedded.sqlite_queue import SqliteQueue
from macule.jobs.webhooks import messages, outbox
from macule.jobs.webhooks.delivery import DeliveryThread, Send
from support import service
from support.upstreams import closed_port
from support.webhook_receivers import SECRET, Receiver, database, receiver

until = partial(service.until, wait_s=8)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(database(tmp_path)) as connection:
        outbox.create_table(connection)
        yield connection


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


def put(table: sqlite3.Connection, name: str, url: str, event: str = COMPLETED_EVENT) -> None:
    with table:
        outbox.add(table, JobOptions(webhook=url, events=EVENTS), event, {"id": name}, time.time())


def take(table: sqlite3.Connection, now: float = 0.0, full: tuple[str, ...] = ()) -> str:
    """Claim for a dead owner; "" if nothing is due."""
    with table:
        delivery = outbox.claim(table, "nobody", now or time.time(), full)
    return delivery.message_id if delivery else ""


def pending(table: sqlite3.Connection) -> list[str]:
    return [row[0] for row in table.execute("SELECT message_id FROM outbox ORDER BY message_id")]


@contextmanager
def opened(
    folder: Path, send: Send, pause_s: Callable[[int], float | None]
) -> Iterator[DeliveryThread]:
    """Start one on its own queue, which stays empty."""
    queue = SqliteQueue(folder, 60, 10)
    one = DeliveryThread(queue.transaction, folder, queue.token, send, pause_s)
    one.start()
    yield one
    one.stop(10)
    queue.close()


@contextmanager
def delivering(
    folder: Path, timeout_s: float = 5.0, pauses_s: tuple[float, ...] = (0.02,) * 50
) -> Iterator[DeliveryThread]:
    """Run one with short pauses."""
    send = partial(messages.deliver, secrets=[SECRET], loopback=True, timeout_s=timeout_s)
    pause_s = dict(enumerate(pauses_s, 1)).get
    with opened(folder, send, pause_s) as one:
        yield one


def test_a_rolled_back_message_is_not_sent(table: sqlite3.Connection) -> None:
    """A message exists if and only if its transaction commits."""
    order = JobOptions(webhook="https://a.example/", events=(STARTED_EVENT,))
    outbox.add(table, order, STARTED_EVENT, {"id": "1"}, 1.0)
    table.rollback()
    with table:
        outbox.add(table, order, STARTED_EVENT, {"id": "3"}, 1.0)
        outbox.add(table, order, COMPLETED_EVENT, {"id": "3"}, 1.0)
        outbox.add(table, JobOptions(events=EVENTS), STARTED_EVENT, {"id": "4"}, 1.0)

    assert pending(table) == ["msg_3_started"]


def test_the_most_failed_messages_are_dropped(
    table: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Above the limit the most failed messages are dropped, and the log says so."""
    monkeypatch.setattr(outbox, "MAX_PENDING", 2)
    for name in "123":
        put(table, name, f"https://{name}.example/secret")
        if name == "1":
            outbox.reschedule(table, take(table), time.time() + 5)

    assert pending(table) == ["msg_2_completed", "msg_3_completed"]
    assert caplog.messages == ["webhook given up: 1.example, as more than 2 wait"]


def test_a_claim_has_one_owner(table: sqlite3.Connection) -> None:
    """A claimed message is not claimed again until its owner is dead."""
    put(table, "1", "https://a.example/")
    first, second = take(table), take(table)
    outbox.release_claims(table, lambda owner: owner != "nobody")
    third = take(table)
    outbox.release_claims(table, lambda owner: owner == "nobody")

    assert (first, second, third) == ("msg_1_completed", "", "")
    assert take(table) == "msg_1_completed"


def test_new_messages_go_before_retries_and_past_full_hosts(table: sqlite3.Connection) -> None:
    """Least tried messages come first; a host that has its share of threads waits."""
    for name, host in zip("123", "aab", strict=True):
        put(table, name, f"https://{host}.example/")
    outbox.reschedule(table, take(table), time.time() - 9)

    assert take(table, full=("a.example",)) == "msg_3_completed"
    assert [take(table), take(table)] == ["msg_2_completed", "msg_1_completed"]


def test_a_clock_jump_loses_nothing(table: sqlite3.Connection) -> None:
    """After a jump forward all are due; after one back they wait the longest pause at most."""
    put(table, "1", "https://a.example/")
    now = time.time()
    outbox.reschedule(table, take(table), now + 3600)
    on_time, forward = take(table), take(table, now + 86400)
    outbox.reschedule(table, forward, now + 86400 + 3600)
    back = take(table, now)

    assert (on_time, forward, back) == ("", "msg_1_completed", "msg_1_completed")


def test_a_delivered_message_is_deleted(
    tmp_path: Path, table: sqlite3.Connection, there: Receiver
) -> None:
    """Both events of a job arrive, and nothing of them is stored."""
    with delivering(tmp_path) as one:
        for event in EVENTS:
            put(table, "1", there.url, event)
        one.wake()
        until(lambda: not pending(table))

    ids = [call.headers["webhook-id"] for call in there.calls]
    assert sorted(ids) == ["msg_1_completed", "msg_1_started"]


@pytest.mark.parametrize("failures", [[500], [302, 404, 429, 503]])
def test_a_failure_is_retried(
    tmp_path: Path, table: sqlite3.Connection, there: Receiver, failures: list[int]
) -> None:
    """The same message is sent until it is accepted, with a new signature each time."""
    there.turns = [*failures, 200]
    put(table, "1", there.url)
    with delivering(tmp_path):
        until(lambda: not pending(table))

    assert len(there.calls) == len(failures) + 1
    assert {call.headers["webhook-id"] for call in there.calls} == {"msg_1_completed"}
    assert len({call.body for call in there.calls}) == 1


def test_retry_after_lengthens_a_pause(
    tmp_path: Path, table: sqlite3.Connection, there: Receiver
) -> None:
    """Retry-After lengthens a pause."""
    there.turns, there.says = [429, 200], {"Retry-After": "1"}
    put(table, "1", there.url)
    began = time.monotonic()
    with delivering(tmp_path):
        until(lambda: not pending(table))

    assert time.monotonic() - began > 0.9
    assert len(there.calls) == 2


def test_a_receiver_that_is_down_is_retried(tmp_path: Path, table: sqlite3.Connection) -> None:
    """Refused connections are retried until the receiver is up."""
    port = closed_port()
    put(table, "1", f"http://127.0.0.1:{port}/")
    with delivering(tmp_path):
        until(lambda: table.execute("SELECT attempts > 2 FROM outbox").fetchone()[0])
        with receiver(port) as late:
            until(lambda: not pending(table))

    assert len(late.calls) == 1


@pytest.mark.parametrize(("way", "attempts", "why"), [("410", 1, "410"), ("500", 3, "500")])
def test_the_end_is_one_line(
    tmp_path: Path,
    table: sqlite3.Connection,
    there: Receiver,
    caplog: pytest.LogCaptureFixture,
    way: str,
    attempts: int,
    why: str,
) -> None:
    """After a 410 or the last attempt nothing is stored, and the log names only the host."""
    put(table, "1", f"{there.url}/{way}?token=secret")
    with delivering(tmp_path, pauses_s=(0.02, 0.02)):
        until(lambda: not pending(table))

    assert len(there.calls) == attempts
    assert caplog.messages == [f"webhook given up (attempt {attempts}): 127.0.0.1 answered {why}"]


def test_a_hanging_host_delays_no_other(tmp_path: Path, table: sqlite3.Connection) -> None:
    """With twenty messages for a hanging host, those for another arrive at once."""
    with receiver() as stuck, receiver() as well, delivering(tmp_path, timeout_s=2) as one:
        for name in range(20):
            put(table, f"a{name}", f"http://localhost:{stuck.port}/stalls")
        one.wake()
        until(lambda: len(stuck.calls) == 2)
        began = time.monotonic()
        for name in range(10):
            put(table, f"b{name}", well.url)
        one.wake()
        until(lambda: len(well.calls) == 10)
        took_s = time.monotonic() - began
        hung = len(stuck.calls)
        table.execute("DELETE FROM outbox")
        table.commit()

    assert took_s < 1
    assert hung == 2  # its share of the threads


def test_of_two_threads_one_sends(
    tmp_path: Path, table: sqlite3.Connection, there: Receiver
) -> None:
    """Only the thread that claims a message sends it."""
    for name in range(30):
        put(table, str(name), there.url)
    with delivering(tmp_path), delivering(tmp_path):
        until(lambda: not pending(table))

    assert len(there.calls) == 30


def test_an_internal_error_is_a_failed_attempt(
    tmp_path: Path, table: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An internal error is logged, ends no thread, and is retried."""
    shown: list[object] = []
    monkeypatch.setattr("threading.excepthook", shown.append)
    sent: list[str] = []

    def send(url: str, message_id: str, body: bytes) -> messages.Outcome:
        sent.append(message_id)
        if len(sent) == 1:
            raise ZeroDivisionError
        return messages.Outcome("delivered")

    put(table, "1", "https://a.example/")
    with opened(tmp_path, send, lambda _: 0.02):
        until(lambda: not pending(table))

    assert (len(sent), len(shown)) == (2, 1)


def test_an_unwritable_database_is_retried(
    tmp_path: Path, there: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread survives a missing table and continues."""
    with delivering(tmp_path) as one:
        until(lambda: caplog.messages)
        with closing(database(tmp_path)) as table:
            outbox.create_table(table)
            put(table, "1", there.url)
            one.wake()
            until(lambda: not pending(table))

    level, text = caplog.record_tuples[0][1:]
    assert level == logging.WARNING
    assert text.startswith("webhooks wait: ")


def test_stopping_waits_for_running_attempts(
    tmp_path: Path, table: sqlite3.Connection, there: Receiver
) -> None:
    """A sent message is recorded before the end, so that it is not sent again."""
    sent: list[str] = []

    def send(url: str, message_id: str, body: bytes) -> messages.Outcome:
        sent.append(message_id)
        time.sleep(0.3)
        return messages.Outcome("delivered")

    put(table, "1", there.url)
    with opened(tmp_path, send, messages.retry_delay_s):
        until(lambda: sent)

    assert pending(table) == []


PROCESS = """
import sys, time
from functools import partial
from pathlib import Path
from macule.jobs.webhooks import messages
from macule.jobs.webhooks.delivery import DeliveryThread
from macule.jobs.embedded.sqlite_queue import SqliteQueue
from support.webhook_receivers import SECRET

folder = Path(sys.argv[1])
send = partial(messages.deliver, secrets=[SECRET], loopback=True, timeout_s=5)
queue = SqliteQueue(folder, 60, 10)
DeliveryThread(queue.transaction, folder, queue.token, send, lambda _: 0.3).start()
time.sleep(60)
"""


@contextmanager
def process(folder: Path) -> Iterator[None]:
    """Run a delivery process until it is killed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", PROCESS, folder], env=environment) as child:
        try:
            yield
        finally:
            child.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("way", ["between", "within"])
def test_deliveries_survive_kill_9(
    tmp_path: Path, table: sqlite3.Connection, there: Receiver, way: str
) -> None:
    """After a kill between or during attempts, the next process delivers."""
    put(table, "1", there.url if way == "between" else f"{there.url}/stalls")
    there.turns = [500]
    with process(tmp_path):
        if way == "between":
            until(lambda: table.execute("SELECT attempts FROM outbox").fetchone()[0])
        until(lambda: there.calls)
    with table:
        table.execute("UPDATE outbox SET url = ?", (there.url,))
    kept, there.turns = pending(table), []
    with process(tmp_path):
        until(lambda: not pending(table))

    ids = {call.headers["webhook-id"] for call in there.calls}
    assert (kept, ids) == (["msg_1_completed"], {"msg_1_completed"})
    assert len(there.calls) == 2

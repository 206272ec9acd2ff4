"""A batch through the workers of a queue, here an in-memory queue with the same protocol."""

import json
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest
from macule import batch, jobs, settings
from macule.batch import score
from macule.errors import Busy, Macule, QueueFull, Unavailable
from macule.inference import pipeline
from macule.jobs import Job, JobOptions
from support.images import photo

CHOSEN = settings.read({})


class Memory:
    """A `jobs.Queue` that runs each job in its own thread; *room* jobs may wait."""

    def __init__(self, work: Callable[[bytes], Mapping[str, Any]], room: int) -> None:
        self._work, self._room = work, room
        self._jobs: dict[str, Job] = {}
        self._ids = count()
        self._lock = Lock()
        self.refused = self.most = 0

    def put(self, order: JobOptions, image: bytes, key: str = "", fingerprint: str = "") -> Job:
        assert (key, fingerprint) == ("", "")
        with self._lock:
            waiting = self.waiting()
            if waiting >= self._room:
                self.refused += 1
                raise QueueFull("As many wait as may.")
            self.most = max(self.most, waiting + 1)
            job = Job(str(next(self._ids)), jobs.STARTING, order, 0.0)
            self._jobs[job.id] = job
        Thread(target=self._answer, args=(job.id, image)).start()
        return job

    def get(self, job_id: str, owner: str) -> Job:
        assert owner == ""
        return self._jobs[job_id]

    def cancel(self, job_id: str, owner: str) -> Job:
        raise NotImplementedError

    def finish(self, job_id: str, status: str, outcome: Mapping[str, Any]) -> bool:
        self._jobs[job_id] = self._jobs[job_id]._replace(status=status, outcome=outcome)
        return True

    def waiting(self) -> int:
        return sum(not job.ended for job in self._jobs.values())

    def _answer(self, job_id: str, image: bytes) -> None:
        try:
            self.finish(job_id, jobs.SUCCEEDED, self._work(image))
        except Macule as error:
            problem = {
                "type": f"urn:macule:problem:{error.slug}",
                "status": error.status,
                "detail": str(error),
            }
            self.finish(job_id, jobs.FAILED, problem)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.jpg").write_bytes(photo(100 + number, 90))
    (folder / "notes.txt").write_text("hello")
    return folder


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten waits to a hundredth."""
    wait = score.wait_or_stop
    monkeypatch.setattr(score, "wait_or_stop", lambda stop, wait_s: wait(stop, wait_s / 100))


def test_workers_give_the_rows_of_this_process(photos: Path, tmp_path: Path) -> None:
    """Rows and errors are the same both ways, and never more jobs wait than there are workers."""
    queue = Memory(lambda image: pipeline.predict(image, CHOSEN)[0], room=100)
    batch.run(str(photos), str(tmp_path / "here.jsonl"), CHOSEN)
    batch.run(str(photos), str(tmp_path / "there.jsonl"), CHOSEN, queue=queue, workers=4)

    assert (tmp_path / "there.jsonl").read_text() == (tmp_path / "here.jsonl").read_text()
    assert queue.most <= 4


def test_a_full_queue_is_retried(photos: Path, tmp_path: Path) -> None:
    """After QueueFull the image is tried again until there is space."""
    queue = Memory(lambda image: pipeline.predict(image, CHOSEN)[0], room=1)

    tally = batch.run(str(photos), str(tmp_path / "all.csv"), CHOSEN, queue=queue, workers=4)

    assert tally == {"ok": 12, "unsupported-image": 1}
    assert queue.refused > 0


def test_a_busy_worker_is_retried(photos: Path, tmp_path: Path) -> None:
    """A job that failed with 503 is tried again; if it always does, the run ends."""
    left = [5]

    def busy_at_first(image: bytes) -> Mapping[str, Any]:
        left[0] -= 1
        if left[0] >= 0:
            raise Busy("Others hold the memory.")
        return pipeline.predict(image, CHOSEN)[0]

    def always(image: bytes) -> Mapping[str, Any]:
        raise Busy("Others hold the memory.")

    tally = batch.run(
        str(photos), str(tmp_path / "all.csv"), CHOSEN, queue=Memory(busy_at_first, 9)
    )
    assert tally["ok"] == 12
    with pytest.raises(Unavailable, match="Others hold"):
        batch.run(str(photos), str(tmp_path / "none.csv"), CHOSEN, queue=Memory(always, 99))


def test_workers_with_another_model_are_reported(photos: Path, tmp_path: Path) -> None:
    """A result of another model ends the batch."""

    def other(image: bytes) -> Mapping[str, Any]:
        answer = json.loads(json.dumps(pipeline.predict(image, CHOSEN)[0]))
        answer["model"]["sha256"] = "0" * 64
        return dict(answer)

    with pytest.raises(Unavailable, match="with the model 000000000000"):
        batch.run(str(photos), str(tmp_path / "all.csv"), CHOSEN, queue=Memory(other, 99))

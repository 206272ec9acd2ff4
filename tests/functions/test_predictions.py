"""Background predictions as a client sees them, through kills and restarts."""

import gzip
import json
import os
import signal
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.images import photo, saved, skin
from support.load_clients import workers
from support.service import GUNICORN, Service, form, running

PHOTO = photo()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with running(GUNICORN, folder, DATA_DIR=str(folder / "data"), MAX_JOBS="40") as service:
        yield service


def make(service: Service, body: bytes = PHOTO, query: str = "", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.call("POST", f"/predictions{query}", body, named)


def ended(service: Service, job_id: str, wait_s: float = 30) -> dict[str, Any]:
    """Poll like a client until the prediction has ended."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        answer = service.call("GET", f"/predictions/{job_id}")
        document: dict[str, Any] = answer.json()
        if "retry-after" not in answer.headers:
            return document
        time.sleep(0.02)
    raise AssertionError(document)


def test_all_upload_formats_are_accepted(service: Service) -> None:
    """Instances, also compressed, make the same prediction; several instances are one error."""
    text = b64encode(PHOTO).decode()
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    one, two = ({"instances": [{"b64": text}] * count} for count in (1, 2))
    made = make(service, gzip.compress(json.dumps(one).encode()), Prefer="wait=30", **packed)
    direct = service.predict(PHOTO).json()
    several = make(service, gzip.compress(json.dumps(two).encode()), **packed)

    assert made.json()["predictions"] == direct["predictions"]
    assert (several.status, "one photo" in several.json()["detail"]) == (400, True)


def test_a_prediction_runs_in_the_background(service: Service) -> None:
    """202 at once with its Location; then the same answer as POST /predict/."""
    made = make(service, query="?top_k=2&explain=cam", Prefer="respond-async")
    done = ended(service, made.json()["id"])
    ledger = service.call("GET", "/memory/").json()["ledger"]
    direct = service.predict(PHOTO, "?top_k=2&explain=cam").json()

    assert ledger["jobs"] == 0
    assert 0 < ledger["jobs_mb"] < ledger["jobs_limit_mb"] >= 32
    assert made.status == 202
    assert made.headers["location"] == f"/predictions/{made.json()['id']}"
    assert made.headers["preference-applied"] == "respond-async"
    assert made.headers["retry-after"] == "1"
    assert done["status"] == "succeeded"
    assert done["predictions"] == direct["predictions"]
    assert done["explanation"] == direct["explanation"]
    assert done["created_at"] <= done["started_at"] <= done["completed_at"]


def test_prefer_wait_returns_the_result(service: Service) -> None:
    """`Prefer: wait` answers 200 with the result; without a wait the answer is 202."""
    waited = make(service, Prefer="wait=20")
    hurried = make(service, Prefer="wait=0")

    assert (waited.status, waited.json()["status"]) == (200, "succeeded")
    assert waited.headers["preference-applied"] == "wait=20"
    assert hurried.status == 202
    assert ended(service, hurried.json()["id"])["status"] == "succeeded"


def test_an_etag_saves_the_body(service: Service) -> None:
    """A client that knows the result gets 304 without a body."""
    job_id = make(service, Prefer="wait=20").json()["id"]
    first = service.call("GET", f"/predictions/{job_id}/")
    again = service.call(
        "GET", f"/predictions/{job_id}", None, {"If-None-Match": first.headers["etag"]}
    )
    other = service.call("GET", f"/predictions/{job_id}", None, {"If-None-Match": '"x"'})

    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"] == other.headers["etag"]
    assert other.status == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [(b"no photo", "text/plain", 415), (b"", "image/jpeg", 400), (PHOTO[:300], "image/jpeg", 422)],
)
def test_an_invalid_image_is_rejected_immediately(
    service: Service, body: bytes, kind: str, status: int
) -> None:
    """Nothing is queued if the header shows that the body is not an image."""
    assert make(service, body, Content_Type=kind).status == status


def test_a_photo_that_cannot_be_decoded_fails(service: Service) -> None:
    """A truncated image passes the check of its header, and its prediction fails with a problem."""
    done = ended(service, make(service, PHOTO[: len(PHOTO) // 2]).json()["id"])

    assert done["status"] == "failed"
    assert done["error"]["type"] == "urn:macule:problem:bad-image"
    assert done["error"]["status"] == 422


def test_an_idempotency_key_is_one_prediction(service: Service) -> None:
    """Repeated requests with one Idempotency-Key, even at once, make one prediction."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: make(service, Idempotency_Key="a1"), range(16)))
    made = {answer.json()["id"] for answer in answers if answer.status in (200, 202)}
    refused = [answer.json() for answer in answers if answer.status == 409]

    assert len(made) == 1
    assert {problem["prediction"] for problem in refused} <= made
    job_id = made.pop()
    ended(service, job_id)
    assert make(service, Idempotency_Key="a1").json()["id"] == job_id
    assert make(service, saved(skin(seed=3)), Idempotency_Key="a1").status == 422
    assert make(service, query="?top_k=1", Idempotency_Key="a1").status == 422
    assert make(service, Idempotency_Key="no spaces").status == 400
    assert make(service, Idempotency_Key="").status == 400  # for example a variable that is not set


def test_forms_can_have_other_fields(service: Service) -> None:
    """An unknown event is rejected, in a form as in JSON."""
    body, kind = form("image", PHOTO)
    boundary = kind["Content-Type"].partition("boundary=")[2]
    part = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="webhook_events_filter"\r\n\r\n'
        "prediction.exploded\r\n"
    )
    answer = service.call("POST", "/predictions", part.encode() + body, kind)

    assert answer.status == 400
    assert "prediction.completed" in answer.json()["detail"]


def test_cancel_and_unknown_ids(service: Service) -> None:
    """A finished prediction cannot be canceled; unknown ids are 404, other methods 405."""
    job_id = make(service, Prefer="wait=20").json()["id"]

    assert service.call("POST", f"/predictions/{job_id}/cancel").status == 409
    assert service.call("POST", "/predictions/nothing/cancel").status == 404
    assert service.call("GET", "/predictions/nothing").status == 404
    assert service.call("GET", "/predictions//cancel").status == 404
    assert service.call("DELETE", f"/predictions/{job_id}").status == 405


def test_a_full_queue_is_503_and_other_requests_work(service: Service) -> None:
    """Requests beyond MAX_JOBS get 503 with Retry-After; direct predictions continue."""
    slow = saved(skin(4000, 3000), "JPEG", quality=90, progressive=True)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: make(service, slow), range(90)))
        direct = service.predict(PHOTO)
    refused = [answer for answer in answers if answer.status == 503]
    made = [answer.json()["id"] for answer in answers if answer.status == 202]

    assert direct.status == 200
    assert refused
    assert len(refused) + len(made) == len(answers)
    assert {answer.json()["type"].rpartition(":")[2] for answer in refused} <= {"queue-full"}
    assert all(answer.headers["retry-after"] for answer in refused)
    canceled = service.call("POST", f"/predictions/{made[-1]}/cancel")
    assert canceled.status in (200, 409)
    assert {ended(service, job_id, 60)["status"] for job_id in made} <= {"succeeded", "canceled"}


def test_kills_and_restarts_lose_nothing(tmp_path: Path) -> None:
    """Of 30 predictions each ends once although worker and service are killed."""
    data, pictures = str(tmp_path / "data"), [saved(skin(3000, 2000, seed)) for seed in range(3)]
    with running(GUNICORN, tmp_path, DATA_DIR=data) as service:
        made = [make(service, pictures[n % 3]).json()["id"] for n in range(30)]
        (worker,) = workers(service)
        os.kill(worker, signal.SIGKILL)
        assert ended(service, made[0])["status"] == "succeeded"
        os.killpg(service.process.pid, signal.SIGKILL)
    with running(GUNICORN, tmp_path, DATA_DIR=data) as service:
        done = [ended(service, job_id) for job_id in made]

        assert [document["status"] for document in done] == ["succeeded"] * 30
        assert len({document["completed_at"] for document in done}) > 1


def test_a_service_without_jobs_creates_no_file(tmp_path: Path) -> None:
    """A service without background predictions creates no file."""
    with running(GUNICORN, tmp_path, DATA_DIR=str(tmp_path / "data")) as service:
        service.predict(PHOTO)
        (worker,) = workers(service)
        maps = Path(f"/proc/{worker}/maps").read_text()

    assert list((tmp_path / "data").iterdir()) == []  # the start has checked the folder
    assert "_sqlite3" not in maps

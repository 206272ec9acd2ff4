"""The predict function behind gunicorn, as `make serve` and Render start it, and behind Flask."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from macule.registry import local
from support.images import photo, saved, skin
from support.service import FRAMEWORK, GUNICORN, ROOT, Service, form, retry_while_busy, running

ANEW = {"Cache-Control": "no-cache"}
SERVERS = {"gunicorn": GUNICORN, "functions-framework": FRAMEWORK}


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Service:
    command = SERVERS[request.param].replace("{name}", "predict")
    with running(command, tmp_path_factory.mktemp("logs")) as service:
        yield service


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[Service]:
    with running(GUNICORN, tmp_path) as service:
        yield service


def loaded_modules(service: Service) -> str:
    """Return the libraries that the service's processes have mapped."""
    group = os.getpgid(service.process.pid)
    paths = set()
    for each in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getpgid(each.pid) == group:
                paths |= {one.path for one in each.memory_maps()}
    return "\n".join(paths)


def test_instances_are_answered_as_predictions(service: Service) -> None:
    """Clients of TF Serving and Vertex AI get one prediction for one instance."""
    instances = {"instances": [{"b64": base64.b64encode(photo()).decode()}]}
    kind = {"Content-Type": "application/json"}
    answer = service.predict(json.dumps(instances).encode(), "?top_k=2", **kind).json()
    plain = service.predict(photo(), "?top_k=2").json()

    assert answer.keys() == {"predictions"}
    (found,) = answer["predictions"]
    passing = ("id", "metrics")
    assert {key: found[key] for key in plain if key not in passing} == {
        key: plain[key] for key in plain if key not in passing
    }


def test_all_routes_exist(service: Service) -> None:
    """Every route answers with and without its slash, before and after the warm-up."""
    for slash in ("", "/"):
        assert service.call("GET", f"/health{slash}").body == b"ok"
        assert service.call("GET", f"/ready{slash}").status in (200, 503)
        assert service.call("GET", f"/memory{slash}").status == 200
        assert service.call("GET", f"/model{slash}").json()["labels"]
        assert service.call("POST", f"/predict{slash}", photo()).status == 200
    assert service.call("POST", "/", photo()).status == 200
    assert service.call("GET", "/ready/").json()["state"] == "ready"


def test_health_returns_json_on_request(service: Service) -> None:
    """`Accept: application/json` gets {"status": "ok"}."""
    answer = service.call("GET", "/health/", headers={"Accept": "application/json"})

    assert answer.json() == {"status": "ok"}


def test_an_answer_is_complete(service: Service) -> None:
    """A prediction has all keys and headers; probabilities fall and sum to 1."""
    answer = service.predict(photo(), **{"X-Request-Id": "mine"}, **ANEW)
    document = answer.json()
    probabilities = [row["probability"] for row in document["predictions"]]

    assert document.keys() == {
        "id", "status", "model", "decision", "predictions", "explanation", "metrics", "disclaimer",
    }  # fmt: skip
    assert document["decision"] in ("classified", "inconclusive", "not_skin")
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-memory-band"] in {"idle", "loaded", "predicting"}
    assert re.search(
        r"decode;dur=[\d.]+, infer;dur=[\d.]+, total;dur=", answer.headers["server-timing"]
    )


def test_three_upload_formats_give_one_answer(service: Service) -> None:
    """Raw, multipart and base64 uploads of one photo give the same answer."""
    body = photo()
    encoded = base64.b64encode(body).decode()
    as_json = {"Content-Type": "application/json", **ANEW}
    fields, kind = form("image", body)
    answers = [
        service.predict(body, **ANEW),
        service.predict(fields, **kind, **ANEW),
        service.predict(json.dumps({"image": encoded}).encode(), **as_json),
        service.predict(
            json.dumps({"image": f"data:image/jpeg;base64,{encoded}"}).encode(), **as_json
        ),
    ]

    assert [answer.status for answer in answers] == [200] * 4
    assert len({json.dumps(answer.json()["predictions"]) for answer in answers}) == 1


def test_a_map_is_returned_on_request(service: Service) -> None:
    """explain=cam adds two PNG images for the likeliest label; by default there is none."""
    document = service.predict(photo(), "?explain=cam&top_k=1").json()

    assert document["explanation"]["label"] == document["predictions"][0]["label"]
    for picture in ("heatmap", "overlay"):
        assert document["explanation"][picture].startswith("data:image/png;base64,iVBOR")
    assert service.predict(photo()).json()["explanation"] is None


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/predict/", b"", 400),
        ("POST", "/predict/?top_k=0", photo(), 400),
        ("POST", "/predict/?explain=lime", photo(), 400),
        ("POST", "/predict/?tta=2", photo(), 400),
        ("POST", "/predict/?sets=49", photo(), 400),
        ("POST", "/predict/?sets=0.9", photo(), 400),
        ("POST", "/predict/?tta=", photo(), 400),
        ("GET", "/nowhere", None, 404),
        ("GET", "/predict/", None, 405),
        ("POST", "/health/", b"x", 405),
        ("PATCH", "/", b"x", 405),
        ("POST", "/predict/", bytes(10 * 2**20 + 1), 413),
        ("POST", "/predict/", b"<html>", 415),
        ("POST", "/predict/", photo()[:3000], 422),
    ],
)
def test_every_error_is_a_problem_document(
    service: Service, method: str, path: str, body: bytes | None, status: int
) -> None:
    """Errors have the documented format and status, and the service continues."""
    answer = service.call(method, path, body)

    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "request_id"} <= answer.json().keys()
    assert service.call("GET", "/health/").status == 200


def test_head_and_options_work(service: Service) -> None:
    """HEAD has no body, and OPTIONS lists the methods."""
    assert service.call("HEAD", "/health/").body == b""
    options = service.call("OPTIONS", "/predict/")
    assert (options.status, options.headers["allow"]) == (204, "OPTIONS, POST")


def test_an_endless_chunked_body_is_rejected(service: Service) -> None:
    """A sender without a length gets an answer at the limit."""

    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield bytes(2**16)

    answer = service.call("POST", "/predict/", endless(), {"Content-Type": "image/jpeg"})  # type: ignore[arg-type]

    assert answer.status == 413


def test_invalid_requests_do_not_affect_others(service: Service) -> None:
    """Of 200 requests at once, 20 of them invalid, each gets its own correct answer.

    A slow machine can be busy longer than a request waits: then it is sent again, as clients do.
    """
    good = [photo(400 + 40 * n, 300) for n in range(6)]
    expected = [service.predict(body).json()["predictions"] for body in good]

    def ask(n: int) -> bool:
        body = os.urandom(5000) if n % 10 == 5 else good[n % 6]
        answer = retry_while_busy(
            lambda: service.predict(body, **ANEW), lambda answer: answer.status == 503
        )
        if n % 10 == 5:
            return answer.status == 415
        return answer.status == 200 and answer.json()["predictions"] == expected[n % 6]

    with ThreadPoolExecutor(200) as pool:
        right = list(pool.map(ask, range(200)))

    assert right == [True] * 200


def test_gunicorn_serves_without_flask_or_tensorflow(gunicorn: Service) -> None:
    """The warm service has mapped LiteRT and no TensorFlow; its environment has none either."""
    gunicorn.predict(photo())
    mapped = loaded_modules(gunicorn)
    code = (
        "import sys, macule.functions.predict; "
        "print(*{'flask', 'numpy', 'PIL', 'ai_edge_litert', 'multipart'} & set(sys.modules))"
    )
    imported = subprocess.check_output([".venv/bin/python", "-c", code], cwd=ROOT)

    assert "litert" in mapped
    assert "tensorflow_" not in mapped
    assert not list((ROOT / ".venv").glob("lib/python*/site-packages/tensorflow*"))
    assert imported.strip() == b""


def test_the_first_request_warms_up_and_reports_it(gunicorn: Service) -> None:
    """A cold /ready/ is 503; the first prediction reports its stages; warm-up is idempotent."""
    cold = gunicorn.call("GET", "/ready/")
    first = gunicorn.predict(photo())
    second = gunicorn.predict(photo())
    warmups = [gunicorn.call("GET", "/warmup/").json() for _ in range(2)]

    assert (cold.status, cold.json()["state"], "retry-after" in cold.headers) == (503, "cold", True)
    assert first.json()["metrics"]["cold_start"] is True
    for stage in ("boot", "import", "fetch", "load", "first"):
        assert f"{stage};dur=" in first.headers["server-timing"]
    assert second.json()["metrics"]["cold_start"] is False
    assert warmups[0] == warmups[1]
    assert warmups[0]["cold_start_ms"] > 0


def test_a_scheduler_can_warm_up_by_header(gunicorn: Service) -> None:
    """A Cloud Scheduler ping to the function's root loads the model."""
    answer = gunicorn.call("GET", "/", headers={"X-CloudScheduler": "true"})

    assert answer.json()["state"] == "ready"
    assert gunicorn.call("GET", "/ready/").status == 200


def test_a_cold_start_is_logged_once(gunicorn: Service) -> None:
    """The load time is logged once, however many pings follow."""
    for _ in range(3):
        gunicorn.call("GET", "/warmup/")

    assert len(re.findall(r"is warm: fetch \d+ ms", gunicorn.log.read_text())) == 1


def test_memory_sums_all_processes(gunicorn: Service) -> None:
    """/memory/ has the documented keys and counts the arbiter and its worker."""
    before = gunicorn.call("GET", "/memory/").json()
    gunicorn.predict(photo())
    after = gunicorn.call("GET", "/memory/").json()

    assert {"rss_mb", "vms_mb", "percent"} <= before["memory"].keys()
    assert before["ledger"]["processes"] == 2
    assert (before["model_loaded"], after["model_loaded"]) == (False, True)
    assert after["pss_mb"] > before["pss_mb"]
    assert after["memory"]["percent"] == pytest.approx(
        after["pss_mb"] / after["limit_mb"] * 100, abs=0.1
    )


def test_maps_can_be_disabled(tmp_path: Path) -> None:
    """With ENABLE_GRADCAM=false the answer has no explanation but a reason, and no error."""
    with running(GUNICORN, tmp_path, ENABLE_GRADCAM="false") as service:
        answer = service.predict(photo(), "?explain=cam")
        shown = service.call("GET", "/memory/").json()["gradcam_enabled"]

    assert (answer.status, answer.json()["explanation"], shown) == (200, None, False)
    assert "ENABLE_GRADCAM" in answer.json()["explanation_missing"]


def test_a_damaged_model_is_503_until_it_is_repaired(tmp_path: Path) -> None:
    """A truncated model file is reported with its reason; the next request loads a good one."""
    folder = tmp_path / "weights"
    shutil.copytree(local.DEFAULT_MODEL_DIR, folder)
    file = folder / "model.tflite"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with running(GUNICORN, tmp_path, MODEL_DIR=str(folder)) as service:
        damaged = service.predict(photo())
        ready = service.call("GET", "/ready/")
        health = service.call("GET", "/health/").status
        file.write_bytes(whole)
        mended = service.predict(photo())

    assert (damaged.status, "retry-after" in damaged.headers) == (503, True)
    assert "sha256" in damaged.json()["detail"]
    assert (ready.status, ready.json()["state"]) == (503, "failed")
    assert (health, mended.status) == (200, 200)


def test_an_invalid_setting_prevents_the_start(tmp_path: Path) -> None:
    """gunicorn does not start with an invalid variable, and names it."""
    refused = pytest.raises(AssertionError, match="MAX_IMAGE_BYTES='ten'")
    with refused, running(GUNICORN, tmp_path, MAX_IMAGE_BYTES="ten"):
        pass


def test_sigterm_lets_running_requests_finish(gunicorn: Service) -> None:
    """A request that runs while the service is stopped is answered."""
    body = photo(4032, 3024)
    gunicorn.predict(photo())
    with socket.create_connection(("127.0.0.1", gunicorn.port)) as connection:
        head = f"POST /predict/ HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:1000])
        time.sleep(0.3)
        os.killpg(gunicorn.process.pid, signal.SIGTERM)
        time.sleep(0.1)
        connection.sendall(body[1000:])
        answer = connection.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.memory
@pytest.mark.parametrize("kind", ["AVIF", "JPEG"])
def test_an_image_that_cannot_fit_gets_507(kind: str, tmp_path: Path) -> None:
    """Under a small limit an expensive image gets 507 with figures, a cheap one its answer."""
    options = {"JPEG": {"progressive": True, "subsampling": 0}, "AVIF": {"speed": 10}}
    dear = saved(skin(5000, 3000), kind, **options.get(kind, {}))
    with running(GUNICORN, tmp_path, MEMORY_LIMIT_MB="110") as service:
        refused = service.predict(dear)
        cheap = service.predict(photo(4032, 3024))

    assert (refused.status, cheap.status) == (507, 200)
    assert refused.json()["estimated_peak_mb"] > refused.json()["free_mb"]


@pytest.mark.memory
def test_a_png_of_any_size_fits(tmp_path: Path) -> None:
    """Under the same limit a PNG of 15 megapixels, 60 MB decoded, is answered."""
    with running(GUNICORN, tmp_path, MEMORY_LIMIT_MB="110") as service:
        answer = service.predict(saved(skin(5000, 3000), "PNG", compress_level=1))

    assert answer.status == 200

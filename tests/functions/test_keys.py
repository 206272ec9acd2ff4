"""API keys and rate limits over HTTP: access, ownership of jobs, and the cost of refusals."""

import base64
import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.broker import broker
from support.images import photo
from support.service import FRAMEWORK, GUNICORN, GUNICORN_DEV, ROOT, Service, running

ALICE, BOB, OLD = ({"X-API-Key": f"mk_{name}"} for name in ("alice", "bob", "old"))
PHOTO = photo()
PREDICT = (ROOT / "layers/model/macule/functions/predict.py").read_text()
FOUND = re.findall(r'"(GET|POST) (/\S*)": \w+\.\w+', PREDICT)
ROUTES = [route for route in FOUND if route != ("POST", "/page/")]  # it asks /predict/: tests/page
# public by contract, even with keys
READABLE = ("/", "/page/{file}", "/openapi.json", "/docs/", "/docs/{file}")
OPEN = {("GET", path) for path in ("/health/", "/ready/", *READABLE)}
HEALTH = ".venv/bin/python -m infra.serve macule.functions.health:app"
SERVERS = [GUNICORN, FRAMEWORK.replace("{name}", "predict")]


def key_entry(name: str, more: str = "") -> str:
    return f"{name}:{hashlib.sha256(f'mk_{name}'.encode()).hexdigest()}{more}"


KEYS = ",".join([key_entry("alice"), key_entry("bob"), key_entry("old", ":revoked")])


@pytest.fixture(scope="module", params=SERVERS, ids=["gunicorn", "functions-framework"])
def service_with_keys(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service_with_keys")
    environment = {"API_KEYS": KEYS, "ALLOWED_ORIGINS": "https://app.example"}
    with running(request.param, folder, **environment) as service:
        yield service


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/nowhere"), ("DELETE", "/health")])
def test_all_routes_but_health_and_ready_need_a_key(
    service_with_keys: Service, method: str, path: str
) -> None:
    """Without a key any other path gets 401; with a key the route answers."""
    file = "docs.css" if path.startswith("/docs") else "style.css"
    named = path.replace("{id}", "0" * 24).replace("{file}", file).replace("{name}", "none")
    without = service_with_keys.call(method, named)
    wrong = service_with_keys.call(method, named, headers={"Authorization": "Bearer mk_wrong"})
    right = service_with_keys.call(method, named, headers={"Authorization": "Bearer mk_alice"})

    if (method, path) in OPEN:
        assert without.status == wrong.status == right.status
        assert without.status in (200, 503)
        return
    assert (without.status, wrong.status) == (401, 401)
    assert without.headers["www-authenticate"] == 'Bearer realm="macule"'
    assert wrong.headers["www-authenticate"].endswith('error="invalid_token"')
    assert without.json()["type"] == "urn:macule:problem:unauthorized"
    assert right.status not in (401, 403)


def test_a_revoked_key_gets_403(service_with_keys: Service) -> None:
    """A revoked key gets 403 instead of 401."""
    answer = service_with_keys.predict(PHOTO, **OLD)

    assert (answer.status, answer.json()["type"]) == (403, "urn:macule:problem:key-revoked")


def test_browsers_can_read_refusals(service_with_keys: Service) -> None:
    """The preflight needs no key and allows the headers; a 401 has CORS headers too."""
    origin = {"Origin": "https://app.example"}
    asks = {"Access-Control-Request-Method": "POST"}
    asks["Access-Control-Request-Headers"] = "authorization,x-api-key"
    before = service_with_keys.call("OPTIONS", "/predict/", headers={**origin, **asks})
    refused = service_with_keys.predict(PHOTO, **origin)

    assert before.status == 204
    assert before.headers["access-control-allow-headers"] == "authorization,x-api-key"
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example"
    exposed = refused.headers["access-control-expose-headers"]
    assert {"RateLimit", "RateLimit-Policy", "WWW-Authenticate"} <= set(exposed.split(", "))


def test_jobs_belong_to_the_key_that_made_them(service_with_keys: Service) -> None:
    """Jobs do not exist for another key, even under the same Idempotency-Key."""
    asked = {"Prefer": "wait=30", "Idempotency-Key": "one", "Content-Type": "image/jpeg"}
    made = service_with_keys.call("POST", "/predictions", PHOTO, {**asked, **ALICE})
    others = service_with_keys.call("POST", "/predictions", photo(500, 400), {**asked, **BOB})
    path = f"/predictions/{made.json()['id']}"
    shown = service_with_keys.call("GET", path, headers=ALICE)

    assert (made.status, others.status) == (200, 200)
    assert made.json()["id"] != others.json()["id"]
    assert shown.json()["status"] == "succeeded"
    assert service_with_keys.call("GET", path, headers=BOB).status == 404
    assert service_with_keys.call("POST", f"{path}/cancel", headers=BOB).status == 404
    assert service_with_keys.call("POST", f"{path}/cancel", headers=ALICE).status == 409


def test_a_client_can_read_its_refusal(service_with_keys: Service) -> None:
    """A client that sends 3 MB with a wrong key reads the 401, with and without `Expect`."""
    body = PHOTO.ljust(3 * 2**20, b"\0")
    after = service_with_keys.predict(body, **{"X-API-Key": "mk_wrong"})
    before = {"X-API-Key": "mk_wrong", "Expect": "100-continue"}

    assert after.status == service_with_keys.predict(body, **before).status == 401


def test_a_refused_body_is_not_awaited(service_with_keys: Service) -> None:
    """A wrong key with an announced body gets 401 at once, and the connection ends."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", service_with_keys.port), 20) as line:
        line.sendall(
            b"POST /predict/ HTTP/1.1\r\nHost: a\r\nX-API-Key: mk_no\r\n"
            b"Content-Type: image/jpeg\r\nContent-Length: 9000000\r\n\r\nsome"
        )
        answer = line.recv(100)
        answered_s = time.monotonic() - began
        while line.recv(65536):
            pass
        ended_s = time.monotonic() - began

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answered_s < 1
    assert ended_s < 4


def test_a_complete_request_keeps_its_connection(service_with_keys: Service) -> None:
    """A wrong key keeps its connection if the body came with the head."""
    statuses = []
    with socket.create_connection(("127.0.0.1", service_with_keys.port), timeout=20) as line:
        for key, body in (("mk_none", b"x"), ("mk_no", b"x"), (ALICE["X-API-Key"], PHOTO)):
            head = f"POST /predict/ HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
            line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = http.client.HTTPResponse(line, method="POST")
            answer.begin()
            answer.read()
            statuses.append(answer.status)

    assert statuses == [401, 401, 200]


def test_warm_up_needs_a_key_over_http(service_with_keys: Service) -> None:
    """A warm-up ping by header also needs a key, in any spelling."""
    ping = {"X-Warmup": "1"}

    assert service_with_keys.call("GET", "/predict/", headers=ping).status == 401
    assert (
        service_with_keys.call("GET", "/predict/", headers={**ping, **ALICE}).json()["state"]
        == "ready"
    )


def test_health_and_doctor_send_a_key(tmp_path: Path) -> None:
    """The health function and `macule doctor` work with PREDICT_KEY; without, they say why not."""
    doctor = [sys.executable, "-m", "macule.cli", "doctor"]
    with running(GUNICORN, tmp_path, API_KEYS=KEYS) as predict:
        url = f"http://127.0.0.1:{predict.port}"
        with running(HEALTH, tmp_path, PREDICT_URL=url, PREDICT_KEY="mk_bob") as health:
            watched = health.call("GET", "/memory/").json()["predict"]
        with running(HEALTH, tmp_path, PREDICT_URL=url) as health:
            refused = health.call("GET", "/memory/").json()["predict"]
        outcomes = [
            subprocess.run(
                [*doctor, url],
                capture_output=True,
                text=True,
                check=False,
                timeout=90,
                env={**os.environ, "PREDICT_KEY": key},
            )
            for key in ("mk_bob", "")
        ]

    assert watched["band"]
    assert refused == {"error": "answered 401"}
    assert [done.returncode for done in outcomes] == [0, 1], outcomes
    assert "FAIL key: This route needs a key" in outcomes[1].stdout


def test_keys_change_without_a_restart_in_every_worker(tmp_path: Path) -> None:
    """With two workers, a new key is accepted and a removed one rejected within 2 s."""
    file = tmp_path / "keys"
    file.write_text(key_entry("alice"))
    with running(GUNICORN, tmp_path, API_KEYS=str(file), WEB_CONCURRENCY="2") as service:
        before = service.call("GET", "/model/", headers=ALICE).status
        file.write_text(key_entry("bob"))
        time.sleep(1.1)
        old = {service.call("GET", "/model/", headers=ALICE).status for _ in range(20)}
        new = {service.call("GET", "/model/", headers=BOB).status for _ in range(20)}

    assert (before, old, new) == (200, {401}, {200})


def test_an_invalid_key_setting_prevents_the_start(tmp_path: Path) -> None:
    """The error names the variable and does not show its content."""
    broken = running(GUNICORN, tmp_path, API_KEYS=f"{key_entry('alice')},bob:hunter2")
    with pytest.raises(AssertionError, match="API_KEYS: entry 2") as caught, broken:
        pass

    assert "hunter2" not in str(caught.value)


def count(service: Service, headers: dict[str, str], times: int) -> Counter[int]:
    return Counter(service.predict(PHOTO, **headers).status for _ in range(times))


@pytest.mark.parametrize("server", SERVERS, ids=["gunicorn", "functions-framework"])
def test_each_key_has_its_quota(tmp_path: Path, server: str) -> None:
    """Each key has its own quota; reads, wrong keys and cancels do not count."""
    with running(server, tmp_path, API_KEYS=KEYS, QUOTA="3/hour,100/second") as service:
        first = service.predict(PHOTO, **ALICE)
        for _ in range(5):
            service.call("GET", "/memory/", headers=ALICE)
            service.predict(PHOTO)
            service.call("POST", f"/predictions/{'0' * 24}/cancel", headers=ALICE)
            service.call("POST", "/nowhere", headers=ALICE)
        alice, bob = count(service, ALICE, 5), count(service, BOB, 2)
        last = service.predict(PHOTO, **ALICE)

    assert first.headers["ratelimit-policy"] == '"hour";q=3;w=3600, "second";q=100;w=1'
    assert first.headers["ratelimit"].startswith('"hour";r=2;t=1200, ')
    assert alice == {200: 2, 429: 3}
    assert bob == {200: 2}
    assert last.status == 429
    assert 1100 < int(last.headers["retry-after"]) <= 1200
    assert last.headers["ratelimit"] == f'"hour";r=0;t={last.headers["retry-after"]}'
    assert last.json()["violated-policies"] == ["hour"]


@pytest.mark.parametrize("server", SERVERS, ids=["gunicorn", "functions-framework"])
def test_without_keys_each_address_has_its_quota(tmp_path: Path, server: str) -> None:
    """X-Forwarded-For counts only from a trusted proxy, and only its last entry."""
    one, two = ({"X-Forwarded-For": f"1.1.1.{n}, 198.51.100.{n}"} for n in (1, 2))
    spoofed = {"X-Forwarded-For": "9.9.9.9, 198.51.100.1"}
    trusted = {"QUOTA": "2/hour", "TRUSTED_PROXIES": "127.0.0.0/8"}
    with running(server, tmp_path, QUOTA="2/hour") as service:
        alone = [count(service, headers, 1) for headers in (one, two, spoofed)]
    with running(server, tmp_path, **trusted) as service:
        behind = [count(service, headers, 3) for headers in (one, two, spoofed)]

    assert alone == [{200: 1}, {200: 1}, {429: 1}]
    assert behind == [{200: 2, 429: 1}, {200: 2, 429: 1}, {429: 3}]


def test_two_services_share_a_quota_while_redis_is_there(tmp_path: Path) -> None:
    """Two services count together in Redis; once it is killed, each counts alone without errors."""
    with broker(tmp_path) as server:
        environment = {"QUOTA": "4/hour", "REDIS_URL": server.url}
        with (
            running(GUNICORN_DEV, tmp_path, **environment) as one,
            running(GUNICORN_DEV, tmp_path, **environment) as two,
        ):
            together = [(one, two)[turn % 2].predict(PHOTO).status for turn in range(8)]
            server.kill()
            apart = [count(service, {}, 5) for service in (one, two)]

    assert together == [200] * 4 + [429] * 4
    assert apart == [{200: 4, 429: 1}, {200: 4, 429: 1}]


def test_lambda_checks_keys_and_quotas(tmp_path: Path) -> None:
    """Each kind of event gets 401, 403, 200, then 429; a schedule needs no key."""
    code = """
import json, sys
from macule.functions.predict import handler
for line in sys.stdin:
    answer = handler(json.loads(line), None)
    print(json.dumps([answer["statusCode"], answer["headers"]]), flush=True)
"""
    body = base64.b64encode(PHOTO).decode()

    def event(kind: str, who: str, **headers: str) -> dict[str, Any]:
        common = {"headers": headers, "body": body, "isBase64Encoded": True}
        if kind == "2.0":
            about = {"method": "POST", "sourceIp": who}
            return {"rawPath": "/predict/", "requestContext": {"http": about}, **common}
        rest = {"httpMethod": "POST", "path": "/predict/", **common}
        if kind == "1.0":
            return {**rest, "requestContext": {"identity": {"sourceIp": who}}}
        rest["headers"] = {**headers, "X-Forwarded-For": f"9.9.9.9, {who}"}
        return {**rest, "requestContext": {"elb": {"targetGroupArn": "a"}}}

    def statuses(events: list[dict[str, Any]], **environment: str) -> list[int]:
        done = subprocess.run(
            [".venv/bin/python", "-c", code],
            cwd=ROOT,
            text=True,
            check=True,
            input="".join(json.dumps(event) + "\n" for event in events),
            capture_output=True,
            timeout=60,
            env={**os.environ, "DATA_DIR": str(tmp_path), **environment},
        )
        return [json.loads(line)[0] for line in done.stdout.splitlines()]

    kinds = ["2.0", "1.0", "elb"]
    callers: list[dict[str, str]] = [{}, {"x-api-key": "mk_no"}, OLD, ALICE]
    asked = [event(kind, "198.51.100.1", **headers) for kind in kinds for headers in callers]
    by_address = [event(kind, who) for who in ("198.51.100.1", "198.51.100.2") for kind in kinds]

    assert statuses([*asked, {"warmup": True}], API_KEYS=KEYS) == [401, 401, 403, 200] * 3 + [200]
    assert statuses(by_address, QUOTA="2/hour") == [200, 200, 429] * 2


@pytest.mark.parametrize("environment", [{}, {"API_KEYS": KEYS, "QUOTA": "60/minute"}])
def test_unused_features_are_not_loaded(environment: dict[str, str]) -> None:
    """Without keys and quotas their modules are not imported; with them nothing heavy at start."""
    code = "import sys, macule.functions.predict; "
    code += "from macule import settings; settings.current(); print(*sys.modules)"
    output = subprocess.check_output(
        [".venv/bin/python", "-c", code], cwd=ROOT, text=True, env={**os.environ, **environment}
    )
    loaded = set(output.split())

    assert not loaded & {"hashlib", "hmac", "redis", "secrets", "ssl"}
    assert ("macule.security.api_keys" in loaded) is bool(environment)
    assert "macule.security.client_address" not in loaded

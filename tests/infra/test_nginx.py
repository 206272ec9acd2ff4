"""The unchanged nginx site in front of the real service, in a machine of its own."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.doc_commands import commands
from support.images import photo
from support.machine import CERTIFICATE, Machine
from support.service import ROOT, Answer, need, until

from infra import limits

pytestmark = pytest.mark.slow
SITE = ROOT / "infra/nginx/macule.conf"
SERVER, CALLER = "192.0.2.1", "192.0.2.7"  # for documentation, and on that machine's loopback
MB = 2**20
CERTIFY = (
    f"mkdir -p {CERTIFICATE}; openssl req -x509 -newkey rsa:2048 -nodes -days 1"
    f" -keyout {CERTIFICATE}/privkey.pem -out {CERTIFICATE}/fullchain.pem"
    " -subj /CN=macule.example -addext subjectAltName=DNS:macule.example 2>&1"
)


@pytest.fixture(scope="module")
def proxied(machine: Machine) -> Iterator[Machine]:
    """Start nginx as Debian does, with the site installed as docs/deploy.md says."""
    need("nginx-light", "nginx")
    machine.run(f"ip address add {SERVER}/32 dev lo; ip address add {CALLER}/32 dev lo; {CERTIFY}")
    machine.run("rm -rf /etc/macule /etc/systemd/system/macule.service.d; systemctl daemon-reload")
    machine.run("mkdir -p /etc/macule; echo LOG_ADDRESSES=true > /etc/macule/env; nginx")
    install(machine)
    yield machine
    machine.run("nginx -s quit; rm /etc/nginx/conf.d/macule.conf")


def install(machine: Machine) -> None:
    """Run the documented commands; return when nginx has loaded the site."""

    def answers() -> bool:
        with suppress(OSError):
            machine.connect(443).close()
            return True
        return False

    machine.run(commands("deploy.md", "Your own machine", "nginx in front"))
    until(answers)


def ask(machine: Machine, method: str, path: str, *rest: object, **headers: str) -> Answer:
    """Send a request over TLS from another address."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    body = rest[0] if rest else None
    return machine.call(method, path, body, names, 443, SERVER, CALLER)  # type: ignore[arg-type]


def reload(machine: Machine, change: str) -> None:
    """Reload nginx; return when the old workers have gone."""

    def workers() -> set[str]:
        return set(machine.run("pgrep -P $(cat /run/nginx.pid)").split())

    before = workers()
    machine.run(change)
    machine.run("nginx -s reload")
    until(lambda: not workers() & before)


def problem(answer: Answer) -> tuple[int, str, str]:
    document = answer.json()
    assert document["status"] == answer.status
    return answer.status, answer.headers["content-type"], document["type"].rpartition(":")[2]


PROBLEM = "application/problem+json"


def test_a_photo_is_classified_through_nginx(proxied: Machine) -> None:
    """nginx ends TLS; the answer has the request's id and HSTS."""
    answer = ask(proxied, "POST", "/predict/?explain=cam", photo(), X_Request_Id="mine-1")

    assert (answer.status, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["strict-transport-security"]
    assert "content-encoding" not in answer.headers


def test_plain_http_is_redirected_to_tls(proxied: Machine) -> None:
    """Port 80 answers 308 with the same path, so that a POST stays a POST."""
    answer = proxied.call("POST", "/predict/?top_k=1", b"", {}, 80, SERVER, CALLER)

    assert answer.status == 308
    assert answer.headers["location"] == "https://macule.example/predict/?top_k=1"


def test_the_client_address_reaches_the_log(proxied: Machine) -> None:
    """macule counts and logs the address that nginx saw, not the one that the client sent."""
    ask(proxied, "POST", "/predict/", photo(), X_Forwarded_For="198.51.100.9", X_Request_Id="who")
    (line,) = [line for line in proxied.log().splitlines() if '"id":"who"' in line]

    assert json.loads(line)["address"] == CALLER


def test_a_body_that_macule_rejects_gets_its_own_413(proxied: Machine) -> None:
    """A body one byte above the limit passes nginx, and macule gives the limit."""
    limit = limits.read().predict.body_mb * MB
    answer = ask(proxied, "POST", "/predict/", bytes(limit + 1))

    assert problem(answer) == (413, PROBLEM, "body-too-large")
    assert answer.json()["limit_bytes"] == limit


def test_a_body_that_nginx_rejects_gets_a_problem_document(proxied: Machine) -> None:
    """nginx rejects a body above its limit before it is sent, in the same format."""
    answer = ask(proxied, "POST", "/predict/", b"", Content_Length=str(10**9))

    assert problem(answer) == (413, PROBLEM, "body-too-large")
    assert answer.json()["request_id"]


def test_a_large_image_in_json_passes(proxied: Machine) -> None:
    """nginx accepts the base64 of an image of the largest size."""
    size = limits.read().predict.body_mb * MB
    body = b'{"image": "' + b"A" * (size * 4 // 3 // 4 * 4) + b'"}'
    answer = ask(proxied, "POST", "/predict/", body, Content_Type="application/json")

    assert problem(answer) == (415, PROBLEM, "unsupported-image")


def test_a_chunked_body_passes(proxied: Machine) -> None:
    """A body without a length is answered like one with a length."""
    body = photo()
    pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))

    assert ask(proxied, "POST", "/predict/", pieces).status == 200


def test_expect_100_continue_is_answered(proxied: Machine) -> None:
    """`Expect: 100-continue` gets 100, and then the photo's answer."""
    output = proxied.run(
        f"curl --silent --verbose --cacert {CERTIFICATE}/fullchain.pem"
        f" --resolve macule.example:443:{SERVER} --header 'Expect: 100-continue'"
        " --data-binary @examples/spot.jpg https://macule.example/predict/ 2>&1"
    )

    assert re.search(r"^< HTTP/1.1 100 Continue", output, re.M)
    assert re.search(r"^< HTTP/1.1 200 OK", output, re.M)


def test_a_slow_sender_takes_no_slot(proxied: Machine) -> None:
    """A slow body holds no slot: nginx keeps it, or macule's poller."""
    body = photo()

    def admitted_while_sending(port: int) -> int:
        """Send half a body to *port*, run another request, and read the slots in use."""
        half, over = threading.Event(), threading.Event()

        def slowly() -> Iterator[bytes]:
            yield body[: len(body) // 2]
            half.set()
            over.wait(60)
            yield body[len(body) // 2 :]

        headers = {"Content-Length": str(len(body))}
        sender = threading.Thread(
            target=proxied.call, args=("POST", "/predict/", slowly(), headers, port)
        )
        sender.start()
        assert half.wait(20)
        try:
            ask(proxied, "POST", "/predict/", photo())
            return slots()
        finally:
            over.set()
            sender.join()

    def slots() -> int:
        count: int = proxied.call("GET", "/memory/").json()["slots"]["admitted"]
        return count

    assert admitted_while_sending(443) == 0
    assert admitted_while_sending(8080) == 0


def test_a_restart_causes_no_502(proxied: Machine) -> None:
    """While macule restarts, clients get answers, or its 503 with Retry-After."""
    over, seen = threading.Event(), []

    def again() -> None:
        while not over.is_set():
            answer = ask(proxied, "POST", "/predict/", photo())
            seen.append((answer.status, "retry-after" in answer.headers))

    threads = [threading.Thread(target=again) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: (200, False) in seen)
    proxied.run("systemctl restart macule.service")
    count = len(seen)
    until(lambda: (200, False) in seen[count + len(threads) :])
    over.set()
    for thread in threads:
        thread.join()

    assert set(seen) <= {(200, False), (503, True)}


def test_502_and_504_are_problem_documents(proxied: Machine) -> None:
    """A stopped macule is 502 and a hanging one 504, both as problem documents."""
    site = "/etc/nginx/conf.d/macule.conf"
    reload(proxied, f"sed -i 's/proxy_read_timeout .*;/proxy_read_timeout 1s;/' {site}")
    pid = proxied.run("systemctl show --property MainPID --value macule.service").strip()
    proxied.run(f"pkill -STOP -P {pid}")
    late = ask(proxied, "POST", "/predict/", photo())
    proxied.run(f"pkill -CONT -P {pid}; systemctl stop macule.socket macule.service")
    gone = ask(proxied, "POST", "/predict/", photo())
    install(proxied)
    proxied.run("systemctl start macule.socket macule.service")

    assert problem(late) == (504, PROBLEM, "timeout")
    assert problem(gone) == (502, PROBLEM, "unreachable")


def test_nginx_rejects_a_mistake(proxied: Machine) -> None:
    """`nginx -t` accepts the site and rejects a misspelled directive."""
    proxied.run("nginx -t")
    slip = "sed -i s/proxy_pass/proxy_pas/ /etc/nginx/conf.d/macule.conf"
    output = proxied.run(f"{slip}; nginx -t 2>&1 || true")
    install(proxied)

    assert 'unknown directive "proxy_pas"' in output


def test_the_printed_removal_leaves_nothing(proxied: Machine) -> None:
    """After the documented removal no unit, folder or site of macule exists."""
    proxied.run(commands("deploy.md", "Your own machine", "Remove"))
    left = proxied.run(
        "find /etc /var/lib /var/cache -path '*macule*' -not -path '/etc/letsencrypt/*'"
        " -not -path '*macule-worker*'"
    )
    proxied.run(commands("deploy.md", "Your own machine", "Start"))
    install(proxied)

    assert left == ""


@pytest.mark.parametrize(
    ("text", "slip", "expected"),
    [
        ("", "", "No issues found"),
        ("Host $host", "Host $http_host", "host_spoofing"),
        ("server_tokens off", "server_tokens on", "version_disclosure"),
        ("TLSv1.2 TLSv1.3", "TLSv1 TLSv1.2", "weak_ssl_tls"),
        ("location / {", "location / { add_header X-A b;", "add_header_redefinition"),
    ],
)
def test_gixy_finds_only_mistakes(tmp_path: Path, text: str, slip: str, expected: str) -> None:
    """gixy, a security linter, accepts the site and reports a mistake."""
    site = tmp_path / "macule.conf"
    site.write_text(SITE.read_text().replace(text, slip, 1) if text else SITE.read_text())
    run = subprocess.run(
        [str(ROOT / ".venv-dev/bin/gixy"), str(site)], capture_output=True, text=True, check=False
    )

    assert expected in run.stdout

"""The clients of examples/ against a real macule and against services that fail."""

import json
import os
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page
from support import loopback
from support.images import photo
from support.loopback import Loopback
from support.service import GUNICORN, READS_IN_SLOTS, ROOT, Service, need, running, until

pytestmark = pytest.mark.slow

SPOT = "examples/spot.jpg"
CLIENTS = {
    "shell": ["examples/predict.sh"],
    "python": [sys.executable, "examples/predict.py"],
    "node": ["node", "examples/predict.mjs"],
}
GOOD = {"id": "7", "status": "succeeded", "predictions": []}


class Ended(NamedTuple):
    """The outcome of a command."""

    code: int
    out: str
    err: str


Client = Callable[..., Ended]


def run(command: list[str], *words: str, **environment: str) -> Ended:
    ended = subprocess.run(
        [*command, *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    command = CLIENTS[request.param]
    need("nodejs", command[0]) if request.param == "node" else None
    return partial(run, command)


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """Serve examples/ from its own origin and yield the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with serving(partial(Quiet, directory=str(ROOT / "examples"))) as url:
        yield url


@pytest.fixture(scope="module")
def macule(pages: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("macule")
    with running(GUNICORN, folder, ALLOWED_ORIGINS=pages, MAX_WAITING="0") as service:
        service.predict(photo())
        yield service


@pytest.fixture(scope="module")
def few_slots(pages: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run a service whose slots `crowded` can occupy."""
    settings = {"ALLOWED_ORIGINS": pages, "MAX_WAITING": "0", "THREADS": "32"}
    with running(READS_IN_SLOTS, tmp_path_factory.mktemp("few_slots"), **settings) as service:
        service.predict(photo())
        yield service


@pytest.fixture(scope="module")
def page(pages: str, browser: Browser) -> Iterator[Page]:
    """Open the example page in a real browser."""
    with browser.new_page() as page:
        page.goto(f"{pages}/predict.html")
        yield page


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    with loopback.serving(Loopback(handler)) as server:
        yield server.url


class Call(NamedTuple):
    line: str
    headers: dict[str, str]
    size: int


Turn = tuple[int, dict[str, str], dict[str, Any]]


@contextmanager
def scripted(*turns: Turn) -> Iterator[tuple[str, list[Call]]]:
    """Answer with *turns* in order, then repeat the last; yield the requests as well."""
    left, calls = list(turns), []

    class Script(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            names = {name.lower(): value for name, value in self.headers.items()}
            calls.append(Call(f"{self.command} {self.path}", names, len(body)))
            status, headers, document = left.pop(0) if len(left) > 1 else left[0]
            text = b"" if status == 304 else json.dumps(document, separators=(",", ":")).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(text)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with serving(Script) as url:
        yield url, calls


@contextmanager
def hanging(head: bytes = b"") -> Iterator[str]:
    """Accept connections, send *head* and then a byte now and then, and never end."""
    over = Event()

    class Hang(BaseHTTPRequestHandler):
        def handle(self) -> None:
            try:
                self.wfile.write(head)
                while not over.wait(0.05):
                    if head:
                        self.wfile.write(b" ")
            except OSError:
                pass  # the client has closed the connection, as intended

    with serving(Hang) as url:
        try:
            yield url
        finally:
            over.set()


def closed() -> str:
    """Return an address on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def all_slots_taken(service: Service) -> Iterator[Callable[[], None]]:
    """Occupy all slots of *service* with unfinished photos until the yielded function is called."""

    def slots() -> dict[str, int]:
        found: dict[str, int] = service.call("GET", "/memory/").json()["slots"]
        return found

    body = photo()
    until(lambda: slots()["admitted"] == 0)
    with ExitStack() as stack:
        senders = []
        for _ in range(slots()["images"]):
            sender = socket.create_connection(("127.0.0.1", service.port))
            stack.enter_context(sender)
            head = f"POST /predict/ HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
            sender.sendall(head.encode() + body[:100])
            senders.append(sender)
        until(lambda: slots()["admitted"] == len(senders))

        def end() -> None:
            for sender in senders:
                sender.sendall(body[100:])
            senders.clear()

        yield end
        end()


def address(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}"


@pytest.mark.parametrize("way", [(), ("--later",)], ids=["now", "later"])
def test_a_photo_gets_its_answer(client: Client, macule: Service, way: tuple[str, ...]) -> None:
    """Directly and through the queue: the JSON on stdout, nothing on stderr, exit code 0."""
    ended = client(*way, SPOT, address(macule) + "/")
    answer = json.loads(ended.out)

    assert (ended.code, ended.err) == (0, "")
    assert (answer["status"], bool(answer["predictions"])) == ("succeeded", True)


@pytest.mark.parametrize("way", [(), ("--later",)], ids=["now", "later"])
def test_a_text_file_is_reported_as_a_problem(
    client: Client, macule: Service, way: tuple[str, ...]
) -> None:
    """stderr has the problem's status, title, detail and request id; the exit code is 1."""
    ended = client(*way, "README.md", address(macule))

    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("415 Not an image format that is served: The bytes are not JPEG")
    assert ended.err.rstrip()[-25:-1].isalnum()


def test_a_busy_service_is_retried(client: Client, few_slots: Service) -> None:
    """A service with all slots taken answers 503; the client tries again and gets its answer."""
    with all_slots_taken(few_slots) as end:
        timer = Thread(target=lambda: (sleep(1.5), end()))
        timer.start()
        ended = client(SPOT, address(few_slots))
        timer.join()

    assert (ended.code, ended.err) == (0, "")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file that is rejected long before it is sent completely."""
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    with path.open("wb") as file:
        file.truncate(40 * 2**20)
    return str(path)


def test_a_file_that_is_far_too_large_is_reported_as_a_problem(
    client: Client, macule: Service, large: str
) -> None:
    """The client shows the answer that arrives during the upload, not a broken connection."""
    ended = client(large, address(macule))

    assert ended.code == 1
    assert ended.err.startswith("413 Too many bytes: ")


def test_an_upload_timeout_is_reported_as_a_problem(client: Client) -> None:
    """The client shows a 408 that arrives before the photo is sent."""
    body = '{"status":408,"title":"The body came too slowly","detail":"d"}'
    reply = f"HTTP/1.1 408 x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        timer = Thread(target=refuse, args=(listener, reply.encode()))
        timer.start()
        ended = client(SPOT, f"http://127.0.0.1:{listener.getsockname()[1]}")
        timer.join()

    assert ended.code == 1
    assert ended.err.startswith("408 The body came too slowly: d (request ")


def refuse(listener: socket.socket, reply: bytes) -> None:
    """Answer one connection before reading its body, then drop the body."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(reply)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(2**16):
            pass


def test_the_client_gives_up_on_a_busy_service(client: Client, few_slots: Service) -> None:
    """Attempts and waits end within the time limit, with the service's own message."""
    with all_slots_taken(few_slots):
        began = monotonic()
        ended = client(SPOT, address(few_slots), MACULE_TIMEOUT_S="3")
        took = monotonic() - began

    assert ended.code == 1
    assert ended.err.startswith("503 The memory this image needs is in use: ")
    assert took < 6


@pytest.mark.parametrize("status", [429, 503])
def test_attempts_are_bounded_and_waits_follow_retry_after(client: Client, status: int) -> None:
    """The client tries five times at most and starts no wait beyond the time limit."""
    problem = {"status": status, "title": "Not now", "detail": "Later.", "request_id": "abc"}
    with scripted((status, {"Retry-After": "0"}, problem)) as (url, calls):
        tired = client(SPOT, url)
        tries = len(calls)
    with scripted((status, {"retry-after": "3600"}, problem)) as (url, calls):
        outcome = client(SPOT, url)

        assert len(calls) == 1
    assert tries == 5
    assert tired.code == outcome.code == 1
    assert tired.err.startswith(f"{status} Not now: Later. (request ")


def test_the_time_limit_holds(client: Client) -> None:
    """The client leaves a service that never answers or never ends; the request has an id."""
    half = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
    for head in (b"", half):
        with hanging(head) as url:
            began = monotonic()
            ended = client(SPOT, url, MACULE_TIMEOUT_S="1")
            took = monotonic() - began

        assert ended.code == 1
        assert ended.err.startswith("0 No answer: ")
        assert "(request " in ended.err
        assert took < 5


def test_a_refused_connection_is_reported(client: Client) -> None:
    """A refused connection is a problem of one line, not a traceback."""
    ended = client(SPOT, closed())

    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert ended.err.startswith("0 No answer: ")
    assert "ECONNREFUSED" in ended.err or "onnect" in ended.err


def test_other_answers_are_reported_by_status(client: Client) -> None:
    """A proxy's page, or JSON that is not macule's, is reported by its status."""
    for turn in ((502, {}, {}), (200, {"Content-Length": "0"}, {}), (404, {}, {"a": "b"})):
        with scripted(turn) as (url, _):
            ended = client(SPOT, url)

        assert ended.code == 1
        assert ended.err.startswith(f"{turn[0]} No answer: ")


def test_polling_follows_the_protocol(client: Client) -> None:
    """All attempts send one Idempotency-Key, the ETag and the API key, with waits between polls."""
    again, soon = {"Retry-After": "0"}, {"Retry-After": "0", "ETag": '"one"'}
    with scripted(
        (503, again, {"status": 503, "title": "Full"}),
        (202, {**again, "Location": "/predictions/7"}, {"id": "7", "status": "starting"}),
        (200, soon, {"id": "7", "status": "processing"}),
        (304, soon, {}),
        (200, {}, GOOD),
    ) as (url, calls):
        ended = client("--later", SPOT, url, MACULE_API_KEY="secret")
    orders, looks = calls[:2], calls[2:]

    assert (ended.code, json.loads(ended.out)) == (0, GOOD)
    assert [call.line for call in calls] == ["POST /predictions"] * 2 + ["GET /predictions/7"] * 3
    assert len({call.headers["idempotency-key"] for call in orders}) == 1
    assert {call.headers["prefer"] for call in orders} == {"respond-async"}
    assert {call.size for call in orders} == {(ROOT / SPOT).stat().st_size}
    assert [call.headers.get("if-none-match", "") for call in looks] == ["", '"one"', '"one"']
    assert {call.headers["authorization"] for call in calls} == {"Bearer secret"}
    assert len({call.headers["x-request-id"] for call in calls}) == 1


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (
            {"status": "failed", "error": {"status": 422, "title": "Bad", "detail": "Broken."}},
            "422 Bad: Broken. (request ",
        ),
        ({"status": "canceled"}, "No answer: "),
    ],
)
def test_a_prediction_that_failed_is_a_problem(
    client: Client, end: dict[str, Any], expected: str
) -> None:
    """The `error` of a failed prediction is reported like a problem of a direct answer."""
    made = (202, {"Retry-After": "0"}, {"id": "7", "status": "starting"})
    with scripted(made, (200, {}, {"id": "7", **end})) as (url, _):
        ended = client("--later", SPOT, url)

    assert (ended.code, ended.out) == (1, "")
    assert expected in ended.err


def test_polling_ends_at_the_time_limit(client: Client) -> None:
    """Polling a prediction that never ends stops at the time limit."""
    wait = (200, {"Retry-After": "1"}, {"id": "7", "status": "processing"})
    with scripted(wait) as (url, calls):
        ended = client("--later", SPOT, url, MACULE_TIMEOUT_S="2")

    assert (ended.code, ended.err.startswith("0 No answer: ")) == (1, True)
    assert len(calls) <= 4


@pytest.mark.parametrize(
    "words", [(), ("--nothing",), ("nowhere.jpg",), (SPOT, "http://127.0.0.1:1", "more")]
)
def test_wrong_usage_exits_with_2(client: Client, words: tuple[str, ...]) -> None:
    """No photo, an unknown option, a missing file or a surplus argument gives a hint on stderr."""
    ended = client(*words)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err
    assert client(SPOT, MACULE_TIMEOUT_S="soon").code == 2


def test_each_can_be_imported(macule: Service) -> None:
    """The files export what their first lines say, and importing them runs nothing."""
    url, node = address(macule), need("nodejs", "node")
    python = f"""
from predict import Problem, predict, predict_later
body = open({SPOT!r}, "rb").read()
print(predict(body, {url!r})["status"], predict_later(body, {url!r}, key="k")["status"])
try: predict(b"hello", {url!r})
except Problem as problem: print(problem.status)
"""
    script = f"""
import {{ readFile }} from "node:fs/promises";
import {{ Problem, predict, predictLater }} from "{(ROOT / "examples/predict.mjs").as_uri()}";
const [body, url] = [await readFile("{SPOT}"), "{url}"];
const later = await predictLater(new Blob([body]), {{ url, key: "k" }});
console.log((await predict(body, {{ url }})).status, later.status);
await predict(new Uint8Array(5), {{ url }}).catch((error) => console.log(error.status));
"""
    shell = f"""
. examples/predict.sh
for send in predict predict_later; do
  "$send" {SPOT} {url} | grep -o '"status":"succeeded"' | tr -d '\\n'
done
predict README.md {url} 2>&1 | cut -c 1-3
"""
    outcomes = [
        run([sys.executable, "-c", python], PYTHONPATH="examples"),
        run([node, "--input-type=module", "-e", script, "photo"]),
        run(["sh", "-c", shell]),
    ]

    assert [ended.err for ended in outcomes] == ["", "", ""]
    assert outcomes[0].out == outcomes[1].out == "succeeded succeeded\n415\n"
    assert outcomes[2].out == '"status":"succeeded"' * 2 + "415\n"


def send(page: Page, url: str, file: str = SPOT, seconds: int = 30, later: bool = False) -> str:
    """Submit the example page's form and return the text shown at the end."""
    page.set_input_files("[name=photo]", ROOT / file)
    page.fill("[name=url]", url)
    page.fill("[name=key]", "secret")  # a header that needs a preflight
    page.fill("[name=seconds]", str(seconds))
    page.set_checked("[name=later]", later)
    page.click("button")
    output = page.locator("output")
    page.wait_for_function("!['', '…'].includes(document.querySelector('output').textContent)")
    return output.inner_text()


@pytest.mark.parametrize("later", [False, True], ids=["now", "later"])
def test_a_page_of_another_origin_gets_its_answer(page: Page, macule: Service, later: bool) -> None:
    """The same client works in a real browser, through CORS with a preflight."""
    answer = json.loads(send(page, address(macule), later=later))

    assert (answer["status"], bool(answer["predictions"])) == ("succeeded", True)


def test_a_page_shows_that_a_file_is_far_too_large(page: Page, macule: Service, large: str) -> None:
    """A browser shows the answer that arrives during the upload."""
    assert send(page, address(macule), large).startswith("413 Too many bytes: ")


def test_a_page_shows_failures(page: Page, macule: Service) -> None:
    """A text file, a refused connection and a timeout are each shown, with the request's id."""
    text = send(page, address(macule), "README.md")
    refused = send(page, closed())
    with hanging() as url:
        silent = send(page, url, seconds=1)

    assert text.startswith("415 Not an image format that is served: The bytes")
    assert refused.startswith("0 No answer: ")
    assert silent.startswith("0 No answer: None came within 1 s. (request ")


def test_a_page_waits_for_a_busy_service(page: Page, few_slots: Service) -> None:
    """A page of another origin can read Retry-After, and waits for it."""
    with all_slots_taken(few_slots) as end:
        given_up = send(page, address(few_slots), seconds=2)
        timer = Thread(target=lambda: (sleep(1.5), end()))
        timer.start()
        answer = json.loads(send(page, address(few_slots)))
        timer.join()

    assert given_up.startswith("503 The memory this image needs is in use: ")
    assert answer["status"] == "succeeded"


def test_a_page_can_read_the_headers_that_it_needs(page: Page, macule: Service) -> None:
    """Allowed origins can read Retry-After, Location, ETag, request id and timings."""
    found = page.evaluate(
        """async ([url, body]) => {
          const headers = { Prefer: "respond-async", "Idempotency-Key": "mine" };
          const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
          const made = await fetch(`${url}/predictions`, { method: "POST", body: bytes, headers });
          const shown = await fetch(url + made.headers.get("Location"));
          const names = ["Location", "Retry-After", "X-Request-Id", "Preference-Applied"];
          return [...names.map((name) => made.headers.get(name)), shown.headers.get("ETag")];
        }""",
        [address(macule), b64encode(photo(200, 150)).decode()],
    )

    assert all(found), found
    assert found[0].startswith("/predictions/")


def test_a_page_that_is_not_allowed_reads_nothing(page: Page, tmp_path: Path) -> None:
    """The browser withholds the answer from a page whose origin is not in ALLOWED_ORIGINS."""
    with running(GUNICORN, tmp_path, ALLOWED_ORIGINS="https://app.example") as service:
        shown = send(page, address(service))

    assert shown.startswith("0 No answer: ")

"""Malicious senders: each is answered in bounded time, and other clients are not affected."""

import gzip
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO

import pytest
from PIL import Image
from support.images import photo, saved, skin
from support.service import GUNICORN, Service, form, running

BODY_TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run a service with a tight memory limit and a second for a body."""
    with running(
        GUNICORN,
        tmp_path_factory.mktemp("logs"),
        BODY_TIMEOUT_S=str(BODY_TIMEOUT_S),
        MEMORY_LIMIT_MB="128",
        CACHE_MB="0",
    ) as service:
        service.predict(photo())
        yield service


def png(width: int, height: int, content: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a gray 8-bit PNG whose header may disagree with *content*."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", content), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def zeros(count: int) -> bytes:
    """Deflate *count* zeros to a thousandth of their size."""
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    return b"".join([packer.compress(block) for _ in range(count // 2**20)]) + packer.flush()


def frames(count: int) -> bytes:
    """Write a GIF of many frames."""
    pictures = [Image.new("L", (64, 64), place % 255) for place in range(count)]
    return saved(pictures[0], "GIF", save_all=True, append_images=pictures[1:])


def with_segments(marker: int, size: int, count: int) -> bytes:
    """Insert meaningless segments after a JPEG's first marker."""
    body = photo(300, 200)
    return body[:2] + (struct.pack(">BBH", 0xFF, marker, size + 2) + bytes(size)) * count + body[2:]


def archive() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.html", "<script>alert(1)</script>")
    return file.getvalue()


# What is sent, and the statuses that are correct for it.
HOSTILE: dict[str, tuple[Callable[[], bytes], set[int]]] = {
    "a PNG of 3.6 gigapixels": (lambda: png(60_000, 60_000, zeros(2**20)), {413}),
    "a small PNG that inflates to 100 MB": (lambda: png(100, 100, zeros(100 * 2**20)), {200, 422}),
    "a PNG of 100 MP that is 1 % there": (lambda: png(10_000, 10_000, zeros(2**20)), {422}),
    "a PNG of 100 MP of zeros": (lambda: png(10_000, 10_000, zeros(101 * 2**20)), {200, 422}),
    "PNG comments that inflate to 100 MB": (
        lambda: png(9, 9, zlib.compress(bytes(90)), (b"zTXt", b"a\0\0" + zeros(100 * 2**20))),
        {200, 422},
    ),
    "a profile that inflates to 100 MB": (
        lambda: png(9, 9, zlib.compress(bytes(90)), (b"iCCP", b"a\0\0" + zeros(100 * 2**20))),
        {200, 422},
    ),
    "4 MB of EXIF": (lambda: with_segments(0xE1, 65_000, 64), {200, 422}),
    "4 MB of ICC": (lambda: with_segments(0xE2, 65_000, 64), {200, 422}),
    "half a million empty segments": (lambda: with_segments(0xFE, 0, 500_000), {200, 422}),
    "a GIF of 3,000 frames": (lambda: frames(3000), {200}),
    "a JPEG of no pixels": (
        lambda: photo(300, 200).replace(struct.pack(">HH", 200, 300), bytes(4)),
        {422},
    ),
    "a TIFF that points to itself": (lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0", {422}),
    "a JPEG that is a ZIP too": (lambda: photo(300, 200) + archive(), {200}),
    "HTML that begins like a GIF": (lambda: b"GIF89a=1;<script>alert(1)</script>" * 50, {422, 413}),
    "an SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", {415}),
    "a gzipped photo": (lambda: gzip.compress(photo(300, 200)), {415}),
    "megabytes of zeros": (lambda: bytes(8 * 2**20), {415}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_answered_in_time_and_memory(service: Service, what: str) -> None:
    """Bombs, false headers and polyglots are answered in seconds; then a photo works."""
    write, right = HOSTILE[what]
    body = write()

    began = time.monotonic()
    answer = service.predict(body)

    assert answer.status in right, answer.body[:200]
    assert answer.status == 200 or answer.json()["title"]
    assert time.monotonic() - began < 10
    assert service.predict(photo()).status == 200
    assert service.call("GET", "/memory/").json()["peak_mb"] < 140


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[" * 500_000, "application/json", 400),
        (b'{"image": ' + b'{"a":' * 100_000, "application/json", 400),
        (b'{"image": "' + b"=" * 100_000 + b'"}', "application/json", 400),
        (b'{"image": "aGVsbG8AA"}', "application/json", 400),
        (b'{"image": "\\ud800"}', "application/json", 400),
        (b"--x\r\n\r\n" * 5000, "multipart/form-data; boundary=x", 400),
        (form("other", b"x")[0] * 1000, "multipart/form-data; boundary=tests-boundary", 400),
        (b"x" * 100, "multipart/form-data; boundary=" + "b" * 5000, 400),
    ],
    ids=[
        "brackets",
        "deep-json",
        "padding",
        "cut-base64",
        "half-a-character",
        "a-thousand-parts",
        "a-thousand-forms",
        "a-long-boundary",
    ],
)
def test_a_hostile_form_is_a_bad_request(
    service: Service, body: bytes, kind: str, status: int
) -> None:
    """Excessive depth, number and invalid content in forms and JSON get a 400."""
    answer = service.predict(body, **{"Content-Type": kind})

    assert answer.status == status
    assert answer.json()["detail"]


def connect(service: Service, headers: str, body: bytes) -> socket.socket:
    """Send the head of a request and the beginning of its body."""
    sender = socket.create_connection(("127.0.0.1", service.port), timeout=30)
    sender.sendall(f"POST /predict/ HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode() + body)
    return sender


def test_stalled_senders_block_nothing(service: Service) -> None:
    """With eight stalled bodies the operators' routes and photos are still answered."""
    senders = [connect(service, "Content-Length: 1000000", b"\xff\xd8") for _ in range(8)]
    time.sleep(0.2)

    began = time.monotonic()
    for path in ("/health/", "/memory/", "/ready/"):
        assert service.call("GET", path).status == 200
    assert time.monotonic() - began < 1
    assert service.predict(photo()).status == 200

    for sender in senders:
        assert sender.recv(100).startswith(b"HTTP/1.1 408 ")
        sender.close()


def test_a_slow_sender_is_disconnected(service: Service) -> None:
    """A sender of two bytes a second is disconnected."""
    sender = connect(service, "Content-Length: 1000000", b"\xff\xd8")
    began = time.monotonic()
    sender.settimeout(0.5)
    answer = b""
    while not answer and time.monotonic() - began < 20:
        sender.sendall(b"x")
        try:
            answer = sender.recv(100)
        except TimeoutError:
            continue
    sender.close()

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < BODY_TIMEOUT_S + 5


@pytest.mark.parametrize(
    "headers",
    ["Content-Length: -1", "Content-Length: 5\r\nContent-Length: 6", "Content-Length: 1e3"],
)
def test_an_invalid_length_is_rejected(service: Service, headers: str) -> None:
    """gunicorn itself rejects an invalid Content-Length."""
    with connect(service, headers, b"x") as sender:
        assert sender.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_short_length_truncates_the_photo(service: Service) -> None:
    """Bytes after the announced length are not part of the photo."""
    body = photo()
    with connect(service, f"Content-Length: {len(body) // 3}\r\nConnection: close", body) as sender:
        assert sender.recv(100).startswith(b"HTTP/1.1 422 ")


def test_aborted_uploads_leave_no_trace(service: Service) -> None:
    """Twenty connections that break in the middle leave the service unchanged."""
    for _ in range(20):
        connect(service, "Content-Length: 1000000", skin(64, 64).tobytes()).close()

    assert service.predict(photo()).status == 200
    assert service.call("GET", "/memory/").json()["slots"]["admitted"] == 0

"""Decoder threads: what the kernel denies them, what they need, and how long callers wait."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from macule import settings
from macule.errors import BadImage, Busy, SlowImage
from macule.inference import decoder_threads, decoding, sandbox
from macule.inference.decoding import formats
from macule.inference.decoding.header import ORIENTATION_TAG
from macule.inference.decoding.icc import PRIMARIES, build_profile
from macule.memory import admission
from PIL import Image
from support import tiff_files
from support.dicom_files import dicom
from support.images import photo, pixels_of, saved, skin
from support.service import until

CHOSEN = settings.read({})
COST = 10 * 2**20


@pytest.fixture
def listener() -> Iterator[int]:
    """Listen on a loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def attempts(folder: Path, port: int) -> dict[str, Callable[[], object]]:
    there = folder / "there"
    there.write_text("secret")
    tries: dict[str, Callable[[], object]] = {
        "read": partial(os.open, there, os.O_RDONLY),
        "write": partial(os.open, there, os.O_WRONLY),
        "create": partial(os.open, folder / "new", os.O_CREAT | os.O_WRONLY),
        "list": partial(os.listdir, folder),
        "remove": partial(os.remove, there),
        "run": partial(os.posix_spawn, "/bin/true", ["true"], {}),
    }
    if sandbox.version() >= min(sandbox.TCP):
        tries["connect"] = partial(socket.create_connection, ("127.0.0.1", port))
        tries["listen"] = partial(socket.create_server, ("127.0.0.1", 0))
    return tries


def denied(tries: dict[str, Callable[[], object]]) -> set[str]:
    """Try everything, and return what the kernel denied."""
    found = set()
    for name, action in tries.items():
        try:
            opened = action()
        except PermissionError:
            found.add(name)
            continue
        if isinstance(opened, socket.socket):
            opened.close()
    return found


def test_a_restricted_thread_can_neither_open_nor_connect(
    landlock: int, tmp_path: Path, listener: int
) -> None:
    """A restricted thread and its children are denied; other threads are not."""
    tries = attempts(tmp_path, listener)
    found: list[set[str]] = []

    def inside() -> None:
        assert sandbox.restrict() == ""
        found.append(denied(tries))
        child = threading.Thread(target=lambda: found.append(denied(tries)))
        child.start()
        child.join()

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()

    assert found == [set(tries), set(tries)]
    assert denied({name: tries[name] for name in ("read", "create", "connect")}) == set()


def drawn(kind: str) -> bytes:
    """Write a picture with rotation, profile, texts and palette."""
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    beside = {} if kind in ("GIF", "BMP", "ICO", "JPEG2000") else {"exif": exif}
    return saved(skin(320, 240), kind, **beside)


def kinds() -> dict[str, Callable[[], bytes]]:
    """Return the supported formats, and the variants that decoders treat differently."""
    palette = skin(320, 240).convert("P")
    gray = Image.fromarray(np.asarray(skin(320, 240).convert("L")).astype(np.uint16) * 257)
    turned = [skin(320, 240), skin(320, 240).rotate(9)]
    plain = {kind: partial(drawn, kind) for kind in image_formats()}
    return {
        **plain,
        "PNG palette": partial(saved, palette, "PNG", transparency=3),
        "PNG 16 bit": partial(saved, gray, "PNG"),
        "GIF transparent": partial(saved, palette, "GIF", transparency=3, comment=b"h\xe9"),
        "JPEG with a profile": partial(
            saved, skin(), "JPEG", icc_profile=build_profile(PRIMARIES[12])
        ),
        "JPEG CMYK": partial(saved, skin().convert("CMYK"), "JPEG", progressive=True),
        "DICOM": dicom,
        "TIFF JPEG": partial(saved, skin(), "TIFF", compression="jpeg"),
        "TIFF fax": partial(saved, skin().convert("1"), "TIFF", compression="group4"),
        "WEBP animated": partial(
            saved, turned[0], "WEBP", save_all=True, append_images=[turned[1].convert("RGBA")]
        ),
    }


def image_formats() -> list[str]:
    """Return Pillow's names of the supported formats."""
    plugins = {name.upper() for name in formats.PLUGINS.values()} - {"JPEG2K"}
    return [*sorted(plugins), "JPEG2000", "WEBP", "AVIF", "HEIF"]


# In a process that has decoded nothing yet, the first image of a kind is also a thread's first.
COLD = """
import sys, threading
from macule import settings
from macule.inference import decoder_threads
def watch(event, arguments):
    if event in ("open", "import") and threading.current_thread().name.startswith("decode"):
        print(event, arguments[0])
sys.addaudithook(watch)
chosen = settings.read({})
for path in sys.argv[1:]:
    body = open(path, "rb").read()
    decoder_threads.inspect(body, chosen)
    decoder_threads.decode(body, 64, "squash", 0, chosen)
"""


@pytest.mark.parametrize("kind", kinds())
def test_decoding_neither_imports_nor_opens_anything(kind: str, tmp_path: Path) -> None:
    """All modules for decoding are imported before, because a restricted thread cannot import."""
    (tmp_path / "photo").write_bytes(kinds()[kind]())

    line = [sys.executable, "-c", COLD, str(tmp_path / "photo")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_restricted_decoder_gives_the_same_result() -> None:
    """Pixels and errors are those of `decoding.decode`."""
    body = photo()

    decoded = decoder_threads.decode(body, 64, "squash", COST, CHOSEN)

    assert (pixels_of(decoded) == pixels_of(decoding.decode(body, 64, "squash"))).all()
    with pytest.raises(BadImage):
        decoder_threads.decode(body[:2000], 64, "squash", COST, CHOSEN)


# As many layers as the kernel allows, each of which only forbids creating devices.
LAYERED = """
import ctypes, logging, os, sys
from macule import settings
from macule.inference import decoder_threads, sandbox
logging.basicConfig(level=logging.INFO, format="%(message)s")
libc, rule = ctypes.CDLL(None, use_errno=True), ctypes.c_uint64(1 << 6)
libc.prctl(sandbox.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
for _ in range(16):
    file = libc.syscall(sandbox.CREATE_RULESET, ctypes.byref(rule), ctypes.c_size_t(8), 0)
    assert libc.syscall(sandbox.RESTRICT_SELF, file, 0) == 0
body, chosen = open(sys.argv[1], "rb").read(), settings.read({})
for _ in range(9):
    decoder_threads.decode(body, 64, "squash", 0, chosen)
"""


def test_without_landlock_decoding_works(landlock: int, tmp_path: Path) -> None:
    """Without the restriction photos are decoded, and the log has the reason."""
    (tmp_path / "photo").write_bytes(photo())

    line = [sys.executable, "-c", LAYERED, str(tmp_path / "photo")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)

    log_lines = set(done.stderr.splitlines())
    assert log_lines == {"decoders may open files and connect: Landlock: E2BIG"}


@pytest.fixture(scope="module")
def slow() -> dict[str, bytes]:
    """Return a file for which one call of a decoder takes half a second or more."""
    noise = np.random.default_rng(7).integers(0, 256, (2000, 3000, 3), np.uint8)
    file = saved(skin(3000, 2250), "JPEG", progressive=True, subsampling=0, quality=90)
    last = file.rindex(b"\xff\xda")
    scans = file[:last] + file[last:-2] * 8 + file[-2:]
    return {
        "WEBP": saved(Image.fromarray(noise), "WEBP", quality=90, method=0),
        "TIFF": tiff_files.in_strips(3000, 2250, [scans], tiff_files.JPEG),
    }


def test_an_incremental_decoder_ends_at_the_deadline(slow: dict[str, bytes]) -> None:
    """libwebp gets its file in pieces, so that decoding ends with the answer."""
    here, hasty = admission.current(), CHOSEN._replace(decode_timeout_s=0.05)

    with pytest.raises(SlowImage), here.reserve(COST, 10):
        decoder_threads.decode(slow["WEBP"], 64, "squash", COST, hasty)

    until(lambda: here.held_bytes == 0, 5)


def test_a_blocking_decoder_is_abandoned_at_the_deadline(slow: dict[str, bytes]) -> None:
    """A longer call is a SlowImage in time; its memory stays reserved until it ends."""
    here, hasty = admission.current(), CHOSEN._replace(decode_timeout_s=0.05)

    with pytest.raises(SlowImage), here.reserve(COST, 10):
        decoder_threads.decode(slow["TIFF"], 64, "squash", COST, hasty)

    assert here.held_bytes == COST
    until(lambda: here.held_bytes == 0, 60)


def test_busy_decoders_keep_their_threads(slow: dict[str, bytes]) -> None:
    """While all threads run abandoned calls, another image gets a 503."""
    here = admission.current()
    hasty = CHOSEN._replace(decode_timeout_s=0.01, admission_timeout_s=5.0)
    for _ in range(here.slots):
        with pytest.raises(SlowImage):
            decoder_threads.decode(slow["TIFF"], 64, "squash", COST, hasty)

    with pytest.raises(Busy):
        decoder_threads.inspect(photo(), CHOSEN._replace(admission_timeout_s=0.01))
    assert here.held_bytes == here.slots * COST
    until(lambda: here.held_bytes == 0, 60)
    assert decoder_threads.inspect(photo(), CHOSEN).format == "JPEG"

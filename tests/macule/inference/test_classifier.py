"""The Python API compared with a real service: the same answers for every input type."""

import base64
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO, StringIO
from pathlib import Path
from threading import Barrier, Semaphore
from typing import Any, NamedTuple

import macule
import numpy as np
import pytest
from macule.inference import classifier
from macule.registry import local, model_card
from PIL import Image
from support import model_sources
from support.images import close_up, photo, saved, skin
from support.service import GUNICORN, ROOT, Service, running

SPOT = ROOT / "examples/spot.jpg"
TURN = 0x0112  # the EXIF tag


class Pair(NamedTuple):
    """A service and the Python API with the same model."""

    service: Service
    classifier: macule.Classifier


@pytest.fixture(scope="module")
def without_maps(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the default model without maps, with a centre crop and a low confidence."""
    folder = tmp_path_factory.mktemp("without-maps")
    path, card = local.find(local.DEFAULT_MODEL_DIR)
    content = bytearray(Path(path).read_bytes())
    _remove_maps(content)
    (folder / card.file).write_bytes(content)
    _rewrite_card(folder, resize="crop", thresholds={"inconclusive": 0.99})
    return str(folder)


def _remove_maps(content: bytearray) -> None:
    """Shorten the lists of outputs in a model file; its weights, outside the table, stay."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content)
    graph, signature = model.Subgraphs(0), model.SignatureDefs(0)
    outputs = graph.OutputsAsNumpy().tolist()
    kept = [index for index in outputs if graph.Tensors(index).ShapeLength() != 4]
    table = graph._tab  # noqa: SLF001  (the object API loses weights outside of the table)
    listed = table.Vector(table.Offset(8))
    struct.pack_into(f"<{len(kept) + 1}i", content, listed - 4, len(kept), *kept)
    table = signature._tab  # noqa: SLF001
    entries = table.Vector(table.Offset(6))
    count = len(outputs)
    places = [
        entries + 4 * at + offset
        for at, offset in enumerate(struct.unpack_from(f"<{count}I", content, entries))
    ]
    named = [
        place for at, place in enumerate(places) if signature.Outputs(at).TensorIndex() in kept
    ]
    offsets = [place - entries - 4 * at for at, place in enumerate(named)]
    struct.pack_into(f"<{len(kept) + 1}I", content, entries - 4, len(kept), *offsets)


def _rewrite_card(folder: Path, **changes: object) -> None:
    from hashlib import sha256

    document = json.loads(Path(local.DEFAULT_MODEL_DIR, model_card.FILE).read_text())
    digest = sha256((folder / document["file"]).read_bytes()).hexdigest()
    (folder / model_card.FILE).write_text(json.dumps({**document, "sha256": digest, **changes}))


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with running(GUNICORN, tmp_path_factory.mktemp("default")) as service:
        yield Pair(service, macule.load())


@pytest.fixture(scope="module")
def other(without_maps: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("other")
    with running(GUNICORN, folder, MODEL_DIR=without_maps) as service:
        yield Pair(service, macule.load(without_maps))


@pytest.fixture(scope="module")
def api(default: Pair) -> macule.Classifier:
    return default.classifier


def turned(orientation: int) -> bytes:
    """Return a photo of odd size with an EXIF rotation."""
    exif = Image.Exif()
    exif[TURN] = orientation
    return photo(333, 217, exif=exif)


def modes() -> dict[str, bytes]:
    """Draw a photo in the modes that a lossless file can have."""
    drawn = skin(301, 199)
    clear = drawn.copy()
    clear.putalpha(drawn.convert("L"))
    deep = Image.fromarray(np.asarray(drawn.convert("L"), np.uint16) * 257)
    palette = drawn.quantize(16)
    return {
        "RGB": saved(drawn, "PNG"),
        "RGBA": saved(clear, "PNG"),
        "L": saved(drawn.convert("L"), "PNG"),
        "LA": saved(clear.convert("LA"), "PNG"),
        "1": saved(drawn.convert("1"), "PNG"),
        "P": saved(palette, "PNG"),
        "P, transparent": saved(palette, "PNG", transparency=3),
        "I;16": saved(deep, "PNG"),
        "BMP": saved(drawn, "BMP"),
        "GIF": saved(drawn, "GIF"),
        "WebP, lossless": saved(clear, "WEBP", lossless=True),
        "TIFF, CMYK": saved(drawn.convert("CMYK"), "TIFF"),
        "TIFF, float": saved(drawn.convert("F"), "TIFF"),
    }


PHOTOS: dict[str, Callable[[], bytes]] = {
    "a phone's": SPOT.read_bytes,
    "a close-up": close_up,
    "progressive": lambda: photo(1001, 1503, progressive=True),
    "narrow": lambda: photo(31, 900),
    "one pixel": lambda: photo(1, 1),
    "WebP": lambda: saved(skin(640, 481), "WEBP"),
    "plain": lambda: saved(Image.new("RGB", (300, 300), (30, 90, 200)), "PNG"),
    **{f"orientation {n}": (lambda n=n: turned(n)) for n in range(1, 9)},
    **{name: (lambda body=body: body) for name, body in modes().items()},
}


def comparable_answer(answer: dict[str, Any]) -> tuple[object, ...]:
    """Convert a service's answer to the form of `heard`."""
    rows = [(row["label"], row["name"], row["probability"]) for row in answer["predictions"]]
    verdict = answer["decision"], answer.get("reason")
    return *verdict, rows, answer["disclaimer"], answer["model"]


def comparable(result: macule.Result, by: macule.Classifier) -> tuple[object, ...]:
    rows = [(row.label, row.name, row.probability) for row in result.predictions]
    return result.decision, result.reason, rows, result.disclaimer, by.model


def png(uri: str) -> bytes:
    return base64.b64decode(uri.partition("base64,")[2])


@pytest.mark.parametrize("name", PHOTOS)
def test_it_answers_like_the_service(default: Pair, name: str) -> None:
    """Decision, labels, probabilities and both images equal the service's exactly."""
    body = PHOTOS[name]()
    answer = default.service.predict(body, "?explain=cam").json()

    result = default.classifier.predict(body)
    explanation = result.explain()

    assert comparable(result, default.classifier) == comparable_answer(answer)
    assert explanation.label == answer["explanation"]["label"]
    assert explanation.faithful == answer["explanation"]["faithful"]
    assert explanation.heatmap == png(answer["explanation"]["heatmap"])
    assert explanation.overlay == png(answer["explanation"]["overlay"])


def test_tta_is_that_of_the_service(default: Pair) -> None:
    """`tta=4` gives the service's probabilities, which differ from one pass; 2 is an error."""
    answer = default.service.predict(SPOT.read_bytes(), "?tta=4").json()

    result = default.classifier.predict(SPOT, tta=4)

    assert comparable(result, default.classifier) == comparable_answer(answer)
    assert result.predictions != default.classifier.predict(SPOT).predictions
    with pytest.raises(macule.BadRequest, match="expected 1 or 4"):
        default.classifier.predict(SPOT, tta=2)


def test_these_photos_get_every_kind_of_decision(default: Pair, other: Pair) -> None:
    """The photos of these tests include classified, inconclusive and not_skin."""
    bodies = [body() for body in PHOTOS.values()]

    assert {default.classifier.predict(body).decision for body in bodies} >= {
        "classified",
        "not_skin",
    }
    assert {other.classifier.predict(body).decision for body in bodies} >= {"inconclusive"}


@pytest.mark.parametrize("name", ["a phone's", "narrow", "orientation 6", "RGBA"])
def test_a_folder_answers_like_its_service(other: Pair, name: str) -> None:
    """Another card (crop, thresholds, no maps) is used as with `MODEL_DIR`."""
    body = PHOTOS[name]()
    answer = other.service.predict(body, "?explain=cam").json()

    result = other.classifier.predict(body)

    assert comparable(result, other.classifier) == comparable_answer(answer)
    assert answer["explanation"] is None
    with pytest.raises(macule.NoMaps, match="has no activation maps"):
        result.explain()


@pytest.mark.parametrize("body", [b"hello", photo()[:3000], b"II*\0" + b"x" * 99])
def test_it_raises_the_errors_of_the_service(default: Pair, body: bytes) -> None:
    """An invalid photo raises the service's status, slug and text."""
    problem = default.service.predict(body).json()

    with pytest.raises(macule.Macule) as caught:
        default.classifier.predict(body)

    assert (caught.value.status, caught.value.slug) == (
        problem["status"],
        problem["type"].rpartition(":")[2],
    )
    assert str(caught.value) == problem["detail"]


def test_all_photo_types_are_accepted(api: macule.Classifier, tmp_path: Path) -> None:
    """A path, bytes and files of any kind give the same answer."""
    body, path = photo(500, 300), tmp_path / "photo.jpg"
    path.write_bytes(body)
    with (
        path.open("rb") as file,
        path.open("rb", buffering=0) as raw,
        tempfile.TemporaryFile() as t,
    ):
        t.write(body)
        t.seek(0)
        ways: list[Any] = [str(path), path, bytearray(body), memoryview(body)]
        found = [api.predict(way) for way in [*ways, file, raw, t, BytesIO(body), _Drip(body)]]

    assert found == [api.predict(body)] * len(found)


class _Drip:
    """A file that returns less than requested."""

    def __init__(self, body: bytes) -> None:
        self.file = BytesIO(body)

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, 1000))


@pytest.mark.parametrize("name", modes())
def test_a_pil_image_equals_its_lossless_file(api: macule.Classifier, name: str) -> None:
    """A PIL image of any mode, opened or loaded, gives the answer of its file."""
    body = modes()[name]
    with Image.open(BytesIO(body)) as opened, Image.open(BytesIO(body)) as loaded:
        loaded.load()
        size = opened.size

        assert api.predict(opened) == api.predict(loaded) == api.predict(body)
        assert opened.size == size  # the image belongs to the caller


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_rotated_by_its_tag(api: macule.Classifier, orientation: int) -> None:
    """The orientation that Pillow read is applied; a changed tag is not."""
    exif = Image.Exif()
    exif[TURN] = orientation
    body = saved(skin(333, 217), "PNG", exif=exif)
    picture = Image.open(BytesIO(body))
    upright = Image.open(BytesIO(body))
    upright.getexif()[TURN] = 1

    assert api.predict(picture) == api.predict(body)
    assert api.predict(picture).explain() == api.predict(body).explain()
    assert api.predict(upright) == api.predict(skin(333, 217))


def test_an_array_equals_its_lossless_file(default: Pair) -> None:
    """RGB arrays, also reversed views, give the answer of a lossless file."""
    pixels = np.asarray(skin(301, 199))
    files = [saved(Image.fromarray(pixels), kind) for kind in ("PNG", "BMP")]
    answers = [default.service.predict(body, "?explain=cam").json() for body in files]

    result = default.classifier.predict(pixels)

    assert [comparable_answer(answer) for answer in answers] == [
        comparable(result, default.classifier)
    ] * 2
    assert result.explain().overlay == png(answers[0]["explanation"]["overlay"])
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    assert default.classifier.predict(bgr[..., ::-1]) == result
    assert default.classifier.predict(bgr) != result


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        (np.zeros((9, 9, 3)), macule.BadRequest, "float64 of shape .9, 9, 3.; expected.*uint8"),
        (np.zeros((9, 9), np.uint8), macule.BadRequest, "shape .9, 9.; expected"),
        (np.zeros((9, 9, 4), np.uint8), macule.BadRequest, "shape .9, 9, 4.; expected"),
        (np.zeros((1, 9, 9, 3), np.uint8), macule.BadRequest, "shape .1, 9, 9, 3.; expected"),
        (np.zeros((0, 9, 3), np.uint8), macule.BadRequest, "has no pixels"),
        (Image.new("RGB", (0, 9)), macule.BadRequest, "0 x 9 has no pixels"),
        (Image.new("LAB", (9, 9)), macule.BadRequest, "mode LAB.*convert it"),
        (StringIO("text"), macule.BadRequest, "binary mode"),
        (BytesIO(b""), macule.BadRequest, "0 bytes"),
        (b"", macule.BadRequest, "0 bytes"),
        (None, macule.BadRequest, "type NoneType; expected a path, bytes"),
        (7, macule.BadRequest, "type int; expected a path, bytes"),
        ("no/such.jpg", macule.Unreadable, "no/such.jpg: No such file"),
        ("a\0b", macule.Unreadable, "not a valid file name"),
        (ROOT, macule.Unreadable, "Is a directory"),
        ("https://example.org/a.jpg", macule.Unreadable, "download the photo first"),
    ],
    ids=lambda value: None if isinstance(value, type | str) else type(value).__name__,
)
def test_invalid_photos_raise_one_line(
    api: macule.Classifier, given: Any, kind: type[macule.Macule], text: str
) -> None:
    """One line says what was given and what is expected."""
    with pytest.raises(kind, match=text) as caught:
        api.predict(given)

    assert "\n" not in str(caught.value)


def test_a_closed_file_is_named(api: macule.Classifier) -> None:
    """A file that was closed before cannot be read."""
    file = BytesIO(photo())
    file.close()

    with pytest.raises(macule.Unreadable, match="closed"):
        api.predict(file)


def test_limits_are_arguments() -> None:
    """Bytes, pixels and seconds are limited for files; pixels also for images and arrays."""
    small = macule.load(max_bytes=20_000, max_pixels=100 * 100)
    fits, wide = photo(100, 100), skin(101, 100)

    assert small.predict(fits).decision
    for large in (saved(wide), wide, np.asarray(wide)):
        with pytest.raises(macule.ImageTooLarge, match="101 x 100 pixels; at most 10,000"):
            small.predict(large)
    noise = os.urandom(20_001)
    for body in (noise, BytesIO(noise)):
        with pytest.raises(macule.BodyTooLarge, match="20,000 bytes"):
            small.predict(body)
    with pytest.raises(macule.SlowImage):
        macule.load(decode_timeout_s=1e-9).predict(photo())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_pixels": 0}, "max_pixels is 0; expected a whole number above 0"),
        ({"max_bytes": 1.5}, "max_bytes is 1.5"),
        ({"decode_timeout_s": float("nan")}, "decode_timeout_s is nan; expected seconds"),
        ({"model_timeout_s": "9"}, "model_timeout_s is '9'"),
        ({"model_sha256": "abc"}, "model_sha256 is not 64 hexadecimal digits"),
        ({"model": 7}, "type int; expected a folder"),
        ({"model": "ftp://host/model"}, "begins with ftp://"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], text: str) -> None:
    """An invalid argument of `load` is named before anything is loaded."""
    with pytest.raises(macule.BadRequest, match=text):
        macule.load(**arguments)


def test_an_invalid_model_is_named(tmp_path: Path) -> None:
    """A missing folder, a Keras file, a missing card and a wrong digest each say so."""
    keras = tmp_path / "mine.keras"
    keras.write_bytes(b"PK")

    with pytest.raises(macule.ModelUnavailable, match=r"no folder .*nope"):
        macule.load(tmp_path / "nope")
    with pytest.raises(
        macule.ModelUnavailable, match=r"mine.keras is a file; run `macule convert`"
    ):
        macule.load(keras)
    with pytest.raises(macule.BadCard, match=r"no model.json"):
        macule.load(tmp_path)
    with pytest.raises(macule.ModelUnavailable, match="does not match MODEL_SHA256"):
        macule.load(model_sha256="0" * 64)


def test_a_model_is_downloaded(api: macule.Classifier, tmp_path: Path) -> None:
    """A card and its file at a URL are downloaded, cached and used."""
    with model_sources.web() as web:
        web.hold(local.DEFAULT_MODEL_DIR, "/lesions")
        fetched = macule.load(f"{web.url}/lesions", model_cache_dir=tmp_path)
        with pytest.raises(macule.ModelUnavailable, match="neither"):
            macule.load(f"{web.url}/none", model_cache_dir=tmp_path)

    assert fetched.model == api.model
    assert fetched.predict(SPOT) == api.predict(SPOT)
    assert list(tmp_path.rglob("*.tflite"))


def test_models_are_independent(default: Pair, other: Pair) -> None:
    """Each classifier keeps its own model, and neither is the service's."""
    from macule.inference import runtime

    before = runtime.loaded()
    macule.load()
    assert default.classifier.model != other.classifier.model
    assert default.classifier.labels == other.classifier.labels
    assert "int8" in repr(default.classifier)
    assert runtime.loaded() is before


def test_threads_can_share_it(api: macule.Classifier) -> None:
    """Each thread gets the answer to its own photo."""
    bodies = [photo(200 + 40 * n, 300) for n in range(6)]
    alone = [api.predict(body) for body in bodies]
    assert len({result.predictions for result in alone}) == 6

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(api.predict, bodies * 4))

    assert together == alone * 4
    assert [a.explain() for a in together[:6]] == [b.explain() for b in alone]


def test_many_photos_stream(api: macule.Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are in order; photos are read shortly before they are needed."""
    monkeypatch.setattr(classifier, "worker_count", lambda: 2)
    taken: list[int] = []

    def photos() -> Iterator[bytes]:
        for number in range(1000):
            taken.append(number)
            yield photo(100 + number, 90)

    results = api.predict_many(photos())
    seen = []
    for number, result in zip(range(12), results, strict=False):
        seen.append(result)
        assert len(taken) <= number + 1 + 2 * classifier.AHEAD_PER_CPU
    results.close()  # type: ignore[attr-defined]
    count = len(taken)

    assert seen == [api.predict(photo(100 + number, 90)) for number in range(12)]
    assert seen[0].explain().overlay
    assert len(taken) == count < 30


def test_one_bad_photo_raises_or_is_yielded(api: macule.Classifier) -> None:
    """By default its error is raised; with return_exceptions it is yielded."""
    bodies = [photo(90, 80), b"hello", photo(80, 90), "no/such.jpg"]

    stream = api.predict_many(bodies)
    assert isinstance(next(stream), macule.Result)
    with pytest.raises(macule.UnsupportedImage):
        next(stream)
    kinds = [type(each) for each in api.predict_many(bodies, return_exceptions=True)]
    assert kinds == [macule.Result, macule.UnsupportedImage, macule.Result, macule.Unreadable]


def test_results_are_small(api: macule.Classifier) -> None:
    """An exception holds no photo; without `explainable` a result holds no pixels."""
    (error,) = api.predict_many([photo()[:3000]], return_exceptions=True)
    (small,) = api.predict_many([photo()], explainable=False)

    assert isinstance(error, macule.BadImage)
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
    assert small == api.predict(photo())
    with pytest.raises(macule.NoMaps, match="explainable=False"):
        small.explain()


def test_results_cannot_be_changed(api: macule.Classifier) -> None:
    """A result is immutable."""
    result = api.predict(SPOT)

    with pytest.raises(AttributeError):
        result.decision = "classified"  # type: ignore[misc]
    assert result == api.predict(SPOT.read_bytes())
    assert repr(result).startswith(f"Result(decision='{result.decision}', predictions=(Prediction(")
    assert "_explanation_input" not in repr(result)


def test_a_notebook_shows_the_overlay(api: macule.Classifier) -> None:
    """An explanation is an image in a notebook, and a short line elsewhere."""
    explanation = api.predict(SPOT).explain()

    assert explanation._repr_png_() == explanation.overlay
    assert Image.open(BytesIO(explanation.overlay)).format == "PNG"
    assert len(repr(explanation)) < 100


def script(code: str, *words: str, cwd: Path = ROOT, **environment: str) -> Any:
    """Run *code* in a fresh process; return its JSON output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_importing_loads_nothing() -> None:
    """`import macule` loads none of the heavy packages, and lists all its exports."""
    code = (
        "import json, sys, macule; heavy = {'numpy', 'PIL', 'ai_edge_litert', 'http', 'logging', "
        "'dataclasses', 'macule.inference.runtime', 'macule.inference.classifier'} "
        "& set(sys.modules);"
        "missing = set(macule.__all__) - set(dir(macule));"
        "empty = [name for name in macule.__all__ if not getattr(macule, name)];"
        "print(json.dumps([[*heavy], [*missing], empty]))"
    )

    assert script(code) == [[], [], []]
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        macule.nope  # type: ignore[attr-defined] # noqa: B018


def test_it_does_not_change_its_process(without_maps: str, tmp_path: Path) -> None:
    """No variable, timer, handler or file changes."""
    code = (
        "import json, logging, os, signal, sys, macule\n"
        "signal.setitimer(signal.ITIMER_REAL, 50); before = dict(os.environ)\n"
        "c = macule.load(sys.argv[1]); decision = c.predict(sys.argv[2]).decision\n"
        "print(json.dumps([decision, signal.getitimer(signal.ITIMER_REAL)[0] > 10,"
        " dict(os.environ) == before, logging.getLogger('macule').handlers, os.listdir()]))"
    )
    nonsense = {"MODEL_DIR": "/nowhere", "MAX_IMAGE_PIXELS": "many", "API_KEYS": "!"}

    found = script(code, without_maps, str(SPOT), cwd=tmp_path, TMPDIR=str(tmp_path), **nonsense)

    assert found == ["inconclusive", True, True, [], []]


def test_a_fork_loads_its_own_model(without_maps: str, tmp_path: Path) -> None:
    """A forked child answers like its parent, but rejects another file.

    So do the workers of `gunicorn --preload`.
    """
    here = shutil.copytree(without_maps, tmp_path / "model")
    code = (
        "import json, os, sys, macule\n"
        "c = macule.load('model'); mine = repr(c.predict(sys.argv[1])); os.chdir('/')\n"
        "def child(act=lambda: None):\n"
        "    r, w = os.pipe()\n"
        "    if os.fork() == 0:\n"
        "        act()\n"
        "        try: said = repr(c.predict(sys.argv[1]))\n"
        "        except macule.ModelUnavailable as error: said = type(error).__name__\n"
        "        os.write(w, said.encode()); os._exit(0)\n"
        "    os.close(w); os.wait(); return open(r).read()\n"
        "def damage(): open(sys.argv[2], 'ab').write(b'x')\n"
        "print(json.dumps([mine == child(), child(damage)]))"
    )
    file = next(Path(here).glob("*.tflite"))

    assert script(code, str(SPOT), str(file), cwd=tmp_path) == [True, "ModelUnavailable"]


def test_at_most_one_image_for_each_processor_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of threads, memory is that of as many photos as processors."""
    from macule.inference import decoding

    monkeypatch.setattr(classifier, "worker_count", lambda: 2)
    one, decode, inside, most = macule.load(), decoding.decode, Semaphore(2), []
    both = Barrier(2, timeout=30)  # the first waits until a second has come

    def counted(*arguments: Any) -> Any:
        most.append(inside.acquire(blocking=False))
        both.wait()
        try:
            return decode(*arguments)
        finally:
            inside.release()

    monkeypatch.setattr(decoding, "decode", counted)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one.predict, [photo(90, 90)] * 16))

    assert most == [True] * 16


def test_prediction_sets_follow_the_card(without_maps: str, tmp_path: Path) -> None:
    """A lower coverage gives a smaller set; a coverage that the card lacks is an error."""
    folder = tmp_path / "model"
    shutil.copytree(without_maps, folder)
    document = json.loads((folder / model_card.FILE).read_text())
    sets = {"prediction_sets": {"50": 0.9, "99": 0.0}}
    (folder / model_card.FILE).write_text(json.dumps(document | sets))

    result = macule.load(folder).predict(SPOT)

    assert result.prediction_set(99) == tuple(row.label for row in result.predictions)
    assert result.prediction_set(50) == (result.predictions[0].label,)
    with pytest.raises(macule.BadRequest, match=r"sets=90 .* it has 50, 99"):
        result.prediction_set()

"""The Open Inference Protocol, with Triton's client and with malformed requests."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from macule.inference import decoding
from macule.registry import local, model_card
from support.images import photo, pixels_of
from support.service import GUNICORN, ROOT, Answer, Service, running

CARD = model_card.read(str(local.DEFAULT_MODEL_DIR))
NAME = CARD.name
SIDES = decoding.sides(CARD.side_px)
SHAPE = [1, *SIDES, 3]
INFER = f"/v2/models/{NAME}/infer"
SPOT = (ROOT / "examples/spot.jpg").read_bytes()
LIMIT = 10 * 2**20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(GUNICORN, tmp_path_factory.mktemp("logs")) as service:
        yield service


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    """Load the public client; it imports gevent, which no other test needs."""
    from tritonclient import http

    return http


@pytest.fixture
def client(service: Service, triton: ModuleType) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"127.0.0.1:{service.port}", network_timeout=30)
    yield client
    client.close()


@pytest.fixture(scope="module")
def expected(service: Service) -> dict[str, Any]:
    """Return the answer of POST /predict/."""
    document: dict[str, Any] = service.predict(SPOT, **{"Cache-Control": "no-store"}).json()
    return document


def by_label(answer: dict[str, Any]) -> dict[str, float]:
    return {row["label"]: row["probability"] for row in answer["predictions"]}


def pixels() -> np.ndarray:
    return pixels_of(decoding.decode(SPOT, CARD.side_px, CARD.resize))


def bytes_input(triton: ModuleType, body: bytes, binary: bool = True) -> Any:
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([body], object), binary_data=binary)
    return tensor


def numbers_input(triton: ModuleType, kind: str, binary: bool) -> Any:
    tensor = triton.InferInput("pixels", SHAPE, kind)
    values = pixels().astype({"FP32": np.float32, "UINT8": np.uint8}[kind])
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def test_server_and_model_are_described(client: Any) -> None:
    """Liveness, readiness and metadata work, with the version in the path and without."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, CARD.version)
    assert client.get_server_metadata()["name"] == "macule"
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]


def test_metadata_matches_the_card(client: Any) -> None:
    """Names, version, labels and side come from the card; the pixels' range is stated."""
    described = client.get_model_metadata(NAME, CARD.version)
    tensors = {tensor["name"]: tensor for tensor in described["inputs"] + described["outputs"]}

    assert (described["name"], described["versions"]) == (NAME, [CARD.version])
    assert described["platform"] == "litert"
    assert tensors["image"]["datatype"] == "BYTES"
    assert (tensors["pixels"]["datatype"], tensors["pixels"]["shape"]) == ("FP32", SHAPE)
    assert "0 to 255" in tensors["pixels"]["parameters"]["content"]
    assert tensors["probabilities"]["shape"] == [1, len(CARD.labels)]
    assert client.get_model_metadata(NAME) == described


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["BYTES", "FP32", "UINT8"])
def test_every_input_format_matches_predict(
    client: Any, triton: ModuleType, expected: dict[str, Any], kind: str, binary: bool
) -> None:
    """A photo and its pixels, binary or JSON, get the probabilities of POST /predict/."""
    if kind == "BYTES":
        tensor = bytes_input(triton, SPOT if binary else base64.b64encode(SPOT), binary)
    else:
        tensor = numbers_input(triton, kind, binary)
    result = client.infer(NAME, [tensor], request_id="42", headers={"Cache-Control": "no-cache"})
    labels = [label.decode() for label in result.as_numpy("labels")[0]]
    probabilities = result.as_numpy("probabilities")

    assert labels == list(CARD.labels)
    assert (probabilities.dtype, probabilities.shape) == (np.float32, (1, len(labels)))
    assert dict(zip(labels, probabilities[0], strict=True)) == pytest.approx(
        by_label(expected), abs=1e-7
    )
    assert result.as_numpy("decision").tolist() == [expected["decision"].encode()]
    assert result.as_numpy("reason").tolist() == [(expected["reason"] or "").encode()]
    assert result.get_response()["id"] == "42"
    assert "not a medical device" in result.get_response()["parameters"]["disclaimer"]


def test_both_protocols_share_the_cache(service: Service) -> None:
    """An answer of /predict/ is a hit here, and the model does not run again."""
    body = photo(333, 222)
    service.predict(body)
    answer = infer(service, body)

    assert answer.status == 200
    assert "decode;dur" not in answer.headers["server-timing"]


def test_requested_outputs_are_returned(
    client: Any, triton: ModuleType, expected: dict[str, Any]
) -> None:
    """Only the requested outputs are returned, in their order, each binary or not."""
    wanted = [
        triton.InferRequestedOutput("decision", binary_data=False),
        triton.InferRequestedOutput("probabilities", binary_data=True),
    ]
    got = client.infer(NAME, [bytes_input(triton, SPOT)], outputs=wanted).get_response()
    outputs = got["outputs"]

    assert [output["name"] for output in outputs] == ["decision", "probabilities"]
    assert outputs[0]["data"] == [expected["decision"]]
    assert outputs[1]["parameters"] == {"binary_data_size": 4 * len(CARD.labels)}


@pytest.mark.parametrize(
    ("name", "version", "body", "status", "expected"),
    [
        ("other", "", SPOT, "404", NAME),
        (NAME, "9", SPOT, "404", CARD.version),
        (NAME, "", b"hello", "415", "JPEG"),
        (NAME, "", SPOT[:3000], "422", "cut off"),
        (NAME, "", bytes(LIMIT + 1), "413", f"{LIMIT:,}"),
        (NAME, "", bytes(2 * LIMIT), "413", "smaller copy"),
    ],
)
def test_the_client_shows_our_errors(
    client: Any,
    triton: ModuleType,
    name: str,
    version: str,
    body: bytes,
    status: str,
    expected: str,
) -> None:
    """Triton's client raises an error with macule's status and message."""
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as raised:
        client.infer(name, [bytes_input(triton, body)], model_version=version)

    assert raised.value.status() == status
    assert expected in raised.value.message()
    assert "exception occurred" not in raised.value.message()


def test_every_error_serves_both_kinds_of_client(service: Service) -> None:
    """Below /v2 a problem document also has the protocol's member `error`."""
    for method, path in (("GET", INFER), ("GET", "/v2/nowhere"), ("POST", "/v2/models/x/infer")):
        answer = service.call(method, path, b"" if method == "POST" else None)

        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["error"] == answer.json()["detail"]
    assert "error" not in service.call("GET", "/v2x").json()


def infer(service: Service, body: bytes, path: str = INFER, **about: Any) -> Answer:
    """Send a photo as binary BYTES, with the changes of *about* in the JSON."""
    content = struct.pack("<I", len(body)) + body
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES"}
    tensor["parameters"] = {"binary_data_size": len(content)}
    text = json.dumps({"inputs": [tensor], **about}).encode()
    return sent(service, text, content, path=path)


def sent(
    service: Service, text: bytes, content: bytes = b"", size: Any = None, path: str = INFER
) -> Answer:
    headers = {"Inference-Header-Content-Length": str(len(text) if size is None else size)}
    return service.call("POST", path, text + content, headers)


def tensor(**about: Any) -> bytes:
    whole = {"name": "image", "shape": [1], "datatype": "BYTES", **about}
    return json.dumps({"inputs": [whole]}).encode()


ENCODED = base64.b64encode(SPOT).decode()
LENGTH = struct.pack("<I", len(SPOT))
BINARY = {"parameters": {"binary_data_size": len(SPOT) + 4}}
GRAY: dict[str, Any] = {"name": "pixels", "datatype": "FP32", "shape": SHAPE}
COUNT = SIDES[0] * SIDES[1] * 3


@pytest.mark.parametrize("size", ["-1", "x", "", "1e3", "99999999999999999999", "70000", "٣"])
def test_an_invalid_header_length_is_rejected(service: Service, size: str) -> None:
    """Negative, huge and non-numeric lengths are rejected."""
    answer = service.call(
        "POST",
        INFER,
        tensor(data=[ENCODED]),
        {"Inference-Header-Content-Length": size.encode()},  # type: ignore[dict-item]
    )

    assert answer.status == 400


@pytest.mark.parametrize(
    ("text", "content", "size"),
    [
        (tensor(**BINARY), LENGTH + SPOT, 1),
        (tensor(**BINARY), LENGTH + SPOT, 60_000),
        (tensor(**BINARY), b"", 5000),
        (tensor(**BINARY), b"", None),
        (tensor(**BINARY), LENGTH + SPOT[:-1], None),
        (tensor(**BINARY), LENGTH + SPOT + b"x", None),
        (tensor(**BINARY), b"\xff\xff\xff\xff" + SPOT, None),
        (tensor(**BINARY), b"\0\0\0\0" + SPOT, None),
        (tensor(parameters={"binary_data_size": 3}), b"abc", None),
        (tensor(parameters={"binary_data_size": -1}), b"", None),
        (tensor(parameters={"binary_data_size": 2**64}), LENGTH + SPOT, None),
        (tensor(parameters={"binary_data_size": True}), b"x", None),
        (tensor(parameters={"binary_data_size": "9"}), b"x" * 9, None),
        (tensor(parameters=[1]), b"", None),
        (tensor(data=[ENCODED], **BINARY), LENGTH + SPOT, None),
        (tensor(data=[ENCODED[:60]]), LENGTH + SPOT, None),
    ],
)
def test_inconsistent_lengths_are_rejected(
    service: Service, text: bytes, content: bytes, size: int | None
) -> None:
    """The header, binary_data_size, the element's length and the body must agree."""
    answer = sent(service, text, content, size)

    assert answer.status == 400
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"inputs": [' * 20_000,
        b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}",
        b"[" + b"{}," * 50_000 + b"{}]",
        b'{"inputs": []}',
        b'{"inputs": [1]}',
        b'{"inputs": {"name": "image"}}',
        b'{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}',
        b'{"inputs": [{}, {}]}',
        b'{"id": 7, "inputs": []}',
        json.dumps({"id": "x" * 1001, "inputs": []}).encode(),
        tensor(data=["%%%"]),
        tensor(data=[7]),
        tensor(data=[]),
        tensor(data=[ENCODED, ENCODED]),
        tensor(data=[ENCODED], shape=[2]),
        tensor(data=[ENCODED], shape=[-1]),
        tensor(data=[ENCODED], shape=[]),
        tensor(data=[ENCODED], shape="1"),
        tensor(data=[ENCODED], shape=None),
        tensor(data=[ENCODED], name="\ud800"),
        tensor(data=[ENCODED], name=["image"]),
        tensor(data=[ENCODED], datatype="FP32"),
        tensor(data=[0.0] * 3, **GRAY),
        tensor(data=[0.0] * (COUNT + 1), **GRAY),
        tensor(data=[[0.0] * (COUNT - 1), [0.0]], **GRAY),
        tensor(data=[[[0, 0], [[0], [0]]], 1], **GRAY),
        tensor(data={"a": 1}, **GRAY),
        tensor(data="a", **GRAY),
        tensor(data=["0"] * COUNT, **GRAY),
        tensor(data=[True] * COUNT, **GRAY),
        tensor(data=[256.0] + [0] * (COUNT - 1), **GRAY),
        tensor(data=[-1] + [0] * (COUNT - 1), **GRAY),
        tensor(data=[10**400] + [0] * (COUNT - 1), **GRAY),
        tensor(data=[1e999] + [0] * (COUNT - 1), **GRAY),
        tensor(data=[float("nan")] + [0] * (COUNT - 1), **GRAY),
        tensor(data=[0] * 3, **{**GRAY, "shape": [1, 1, 1, 3]}),
        tensor(data=[0] * 3, **{**GRAY, "shape": [2**62, 2**62, 2**62, 3]}),
        tensor(data=[0] * 2 * COUNT, **{**GRAY, "shape": [2, *SHAPE[1:]]}),
        tensor(data=[0] * COUNT, **{**GRAY, "datatype": "INT64"}),
    ],
)
def test_invalid_json_is_rejected(service: Service, text: bytes) -> None:
    """A missing object, a missing input, a wrong shape and a non-number are each a 400."""
    answer = service.call("POST", INFER, text)

    assert answer.status == 400
    assert answer.json()["error"]
    assert len(answer.body) < 2000


@pytest.mark.parametrize(
    "about",
    [
        {"outputs": [{"name": "logits"}]},
        {"outputs": [{"name": "decision"}, {"name": "decision"}]},
        {"outputs": [{"name": ["decision"]}]},
        {"outputs": ["decision"]},
        {"outputs": {"name": "decision"}},
        {"outputs": [{"name": "decision", "parameters": {"binary_data": 1}}]},
        {"outputs": [{"name": "labels", "parameters": {"classification": 2}}]},
        {"outputs": [{"name": "labels", "parameters": {"shared_memory_region": "a"}}]},
        {"parameters": {"binary_data_output": "yes"}},
    ],
)
def test_invalid_outputs_are_rejected(service: Service, about: dict[str, Any]) -> None:
    """An unknown name, a repeated one and an extension's parameter are rejected."""
    assert infer(service, SPOT, **about).status == 400


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 255.5, -0.6, 3e38])
def test_invalid_pixels_are_rejected(service: Service, value: float) -> None:
    """Binary FP32 values outside 0 to 255 are a 400."""
    values = np.zeros(COUNT, "<f4")
    values[COUNT // 2] = value
    text = tensor(**GRAY, parameters={"binary_data_size": values.nbytes})

    assert sent(service, text, values.tobytes()).status == 400
    assert sent(service, text, values.tobytes()[:-4]).status == 400


def test_a_compressed_request_is_answered(
    client: Any, triton: ModuleType, expected: dict[str, Any]
) -> None:
    """tritonclient's gzip and deflate are read, with binary tensors and with JSON."""
    for coding, binary in (("gzip", True), ("deflate", False)):
        content = SPOT if binary else base64.b64encode(SPOT)
        found = client.infer(
            NAME, [bytes_input(triton, content, binary)], request_compression_algorithm=coding
        )

        assert found.as_numpy("decision").tolist() == [expected["decision"].encode()]


def test_other_encodings_and_endless_bodies_are_rejected(service: Service) -> None:
    """An unknown coding, a wrong one, and a body without a length are rejected."""

    def endless() -> Iterator[bytes]:
        for _ in range(300):
            yield bytes(2**16)

    other = service.call("POST", INFER, bytes(99), {"Content-Encoding": "br"})
    packed = service.call("POST", INFER, b"\x1f\x8b" + bytes(99), {"Content-Encoding": "gzip"})
    cut = service.call("POST", INFER, endless())  # type: ignore[arg-type]

    assert (other.status, other.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert (packed.status, "not gzip" in packed.json()["error"]) == (400, True)
    assert cut.status == 413


def test_any_id_is_returned(service: Service) -> None:
    """Any id, with lone surrogates or missing, gives valid JSON with an id."""
    for given in ("Đào", "\ud800", ""):
        answer = infer(service, SPOT, id=given)

        assert answer.status == 200
        assert answer.json()["id"] == given or not given


def test_a_readiness_check_loads_the_model(tmp_path: Path) -> None:
    """Liveness and metadata leave it cold; the readiness check loads it."""
    with running(GUNICORN, tmp_path) as cold:
        live = cold.call("GET", "/v2/health/live").json()
        cold.call("GET", f"/v2/models/{NAME}")
        before = cold.call("GET", "/ready/").json()["state"]
        ready = cold.call("GET", "/v2/health/ready")
        after = cold.call("GET", "/ready/").json()["state"]

    assert (live, before) == ({"live": True}, "cold")
    assert (ready.status, ready.json(), after) == (200, {"ready": True}, "ready")


@pytest.mark.memory
def test_a_hostile_body_takes_no_more_than_its_estimate(tmp_path: Path) -> None:
    """13 MB of JSON that would become 300 MB take four times their size plus 7 MB at most."""
    bodies = [
        b'{"inputs": [' + b"[]," * (4 * 2**20) + b"0]}",
        b'{"id": "' + b"A" * (12 * 2**20) + b'\\ud83d\\ude00"}',
        b'{"id": "' + b"A" * (12 * 2**20) + b'"}',
        tensor(data=["A"]).replace(b'"A"', b'"' + b"ab " * (4 * 2**20) + b'"'),
        tensor(data=[ENCODED], **GRAY).replace(b"[1,", b"[" + b"[0]," * 2**17 + b"1,"),
    ]
    with running(GUNICORN, tmp_path, MEMORY_LIMIT_MB="400") as service:
        service.call("GET", "/v2/health/ready")
        before = service.call("GET", "/memory/").json()["peak_mb"]
        statuses = [service.call("POST", INFER, body).status for body in bodies]
        grown = service.call("GET", "/memory/").json()["peak_mb"] - before

    assert set(statuses) <= {400, 415}
    assert grown < 7 + 4 * 12

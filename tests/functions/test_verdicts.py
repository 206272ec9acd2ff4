"""Reasons and options of predictions as a client sees them, with a model of colours."""

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.service import GUNICORN, Service, running
from support.small_model import colour_photo

# Photos of one colour, by the verdict that they get.
VERDICTS = {
    ("classified", None): (200, 40, 40),
    ("inconclusive", "low_probability"): (80, 70, 70),
    ("inconclusive", "unfamiliar"): (10, 150, 10),
    ("inconclusive", "not_dermoscopic"): (10, 10, 200),
    ("not_skin", None): (10, 230, 230),
}
PHONE = colour_photo(VERDICTS["inconclusive", "not_dermoscopic"])


@pytest.fixture(scope="module")
def service(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(GUNICORN, tmp_path_factory.mktemp("logs"), MODEL_DIR=str(colours)) as service:
        yield service


@pytest.mark.parametrize(("verdict", "colour"), VERDICTS.items())
def test_only_an_inconclusive_answer_has_a_reason(
    service: Service, verdict: tuple[str, str | None], colour: tuple[int, int, int]
) -> None:
    """The reason follows from the scores; a cached answer has the same one."""
    answers = [service.predict(colour_photo(colour)).json() for _ in range(2)]

    assert [answer["metrics"]["cache"] for answer in answers] == ["miss", "hit"]
    for answer in answers:
        assert (answer["decision"], answer.get("reason")) == verdict
        assert ("reason" in answer) == (answer["decision"] == "inconclusive")


def test_a_queued_prediction_has_the_reason(service: Service) -> None:
    """The document of a succeeded prediction has it too."""
    document = service.call("POST", "/predictions", PHONE, {"Prefer": "wait=30"}).json()

    assert (document["status"], document["decision"]) == ("succeeded", "inconclusive")
    assert document["reason"] == "not_dermoscopic"


def test_the_reason_is_the_last_output_of_v2(service: Service) -> None:
    """It follows the outputs that clients know; without a reason it is empty."""
    found = []
    for body in (PHONE, colour_photo((200, 40, 40))):
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
        asked = {"inputs": [{**tensor, "data": [b64encode(body).decode()]}]}
        path = "/v2/models/colours/infer"
        outputs = service.call("POST", path, json.dumps(asked).encode()).json()["outputs"]
        found.append([outputs[-1]["name"], *outputs[-1]["data"]])
    described = service.call("GET", "/v2/models/colours").json()["outputs"]

    assert found == [["reason", "not_dermoscopic"], ["reason", ""]]
    assert [output["name"] for output in described] == [output["name"] for output in outputs]


@pytest.mark.parametrize("path", ["/predict/", "/predictions"])
def test_tta_averages_four_mirror_images(service: Service, path: str) -> None:
    """The model sees a quarter of a photo, and with `tta=4` every quarter once."""
    red, green, blue, grey = (250, 0, 0), (0, 100, 0), (0, 0, 80), (90, 90, 90)
    wait = {"Prefer": "wait=30"}
    one, four = (
        service.call("POST", f"{path}?tta={tta}", colour_photo(red, green, blue, grey), wait).json()
        for tta in (1, 4)
    )

    assert shares(one) == pytest.approx({"red": 1, "green": 0, "blue": 0}, abs=0.01)
    assert shares(four) == pytest.approx(dict.fromkeys(("red", "green", "blue"), 1 / 3), abs=0.02)
    assert (one["decision"], four["decision"]) == ("classified", "inconclusive")
    assert four["reason"] == "low_probability"


def test_tta_takes_scores_from_the_photo_itself(service: Service) -> None:
    """Mirror images do not count for the distance and the clinical score."""
    red, green, blue = (200, 40, 40), (10, 230, 10), (10, 10, 200)
    found = [
        service.predict(colour_photo(*quarters), "?tta=4").json().get("decision")
        for quarters in ((green, red, red, red), (red, green, red, red), (red, red, red, blue))
    ]

    assert found == ["not_skin", "classified", "classified"]


@pytest.mark.parametrize("path", ["/predict/", "/predictions"])
@pytest.mark.parametrize(
    ("colour", "sets"),
    [
        ((120, 90, 30), {80: ["red"], 90: ["red", "green"], 95: ["red", "green", "blue"]}),
        ((80, 70, 69), {80: ["red"], 90: ["red", "green", "blue"]}),
    ],
)
def test_a_set_has_every_label_above_the_threshold(
    service: Service, path: str, colour: tuple[int, int, int], sets: dict[int, list[str]]
) -> None:
    """It always has the most likely label, and `top_k` does not limit it; a hit has it too."""
    body, wait = colour_photo(colour), {"Prefer": "wait=30"}
    for percent, labels in sets.items():
        for _ in range(2):
            answer = service.call("POST", f"{path}?top_k=1&sets={percent}", body, wait).json()

            assert answer["prediction_set"] == {"coverage": percent / 100, "labels": labels}
            assert len(answer["predictions"]) == 1
    assert "prediction_set" not in service.predict(body).json()


def test_a_coverage_that_the_card_lacks_is_a_400(service: Service) -> None:
    """The problem names the percents of the card; a queued prediction fails with it."""
    direct = service.predict(PHONE, "?sets=85")
    queued = service.call("POST", "/predictions?sets=85", PHONE, {"Prefer": "wait=30"}).json()
    shown = [service.call("POST", f"/page/?sets={percent}", PHONE) for percent in (85, 90)]

    assert (direct.status, direct.json()["type"]) == (400, "urn:macule:problem:bad-request")
    assert "80, 90, 95" in direct.json()["detail"]
    assert (queued["status"], queued["error"]["status"]) == ("failed", 400)
    assert queued["error"]["detail"] == direct.json()["detail"]
    assert [answer.status for answer in shown] == [400, 200]


def shares(answer: dict[str, Any]) -> dict[str, float]:
    return {row["label"]: row["probability"] for row in answer["predictions"]}

"""The specification against real services: recorded answers, and generated requests."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.engine import events, from_schema
from support.api_examples import FILE, recorded, small, steady
from support.images import photo
from support.service import GUNICORN, Service, running

SECRET = f"whsec_{b64encode(bytes(32)).decode()}"
# What no schema can say: which bytes are a photo, which address may get a webhook, and which
# prediction sets the card has.
for kind in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, st.sampled_from([small(), photo(64, 48)]))
PHOTO = {"enum": [b64encode(small()).decode()]}
NOBODY = {"enum": ["https://127.0.0.1:9/", ""]}
MODEL = {"ModelName": "name", "ModelVersion": "version"}
CONFIG = {
    "continue-on-failure": True,
    "request-timeout": 30.0,
    "generation": {"deterministic": True, "database": "none"},
    "checks": {
        # busy, full, cold and too small for an image are correct answers, and described
        "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "507"]},
    },
    "operations": [
        {
            # no schema gives the number of pixels, nor the length of a body's JSON part
            "include-name-regex": "POST /v2/.*/infer",
            "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "400"]}},
        },
        {
            "include-name": "POST /predictions",
            # a random Idempotency-Key that came before with another photo
            "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "409", "422"]}},
        },
    ],
}
# Cases for each operation, and at least in total; the slow ones are 2,000 together.
CASES = [
    ("predict", 4, 80),
    ("health", 12, 45),
    pytest.param("predict", 90, 1800, marks=pytest.mark.slow),
    pytest.param("health", 80, 300, marks=pytest.mark.slow),
]


class Found(NamedTuple):
    """Results of schemathesis: cases by operation, answers by status, and failures."""

    cases: Counter[str]
    statuses: Counter[int]
    failures: list[str]


@pytest.mark.parametrize(("function", "each", "least"), CASES)
def test_every_answer_is_as_described(function: str, each: int, least: int, tmp_path: Path) -> None:
    """Every answer to a generated request, valid or not, is described by the specification."""
    environment = {"WEBHOOK_SECRETS": SECRET, "WEBHOOK_LOOPBACK": "true", "MAX_JOBS": "100000"}
    with running(GUNICORN, tmp_path, FUNCTION_TARGET=function, **environment) as service:
        found = run_schemathesis(service, each)

    sys.stdout.write(f"{function}: {sum(found.cases.values()):,} cases, {dict(found.statuses)}\n")
    assert not found.failures, "\n".join(found.failures[:5])
    assert sum(found.cases.values()) >= least


def test_the_examples_are_current(tmp_path: Path) -> None:
    """`make openapi` would write the same examples, except for times, ids and machine figures."""
    kept, now = json.loads(FILE.read_text()), recorded(tmp_path)

    for part, answered in now.items():
        assert steady(kept[part]) == steady(answered)
    assert kept.keys() - now.keys() == {"photo"}


def run_schemathesis(service: Service, each: int) -> Found:
    """Run schemathesis against *service*, with at least *each* requests for every operation."""
    document = service.call("GET", "/openapi.json").json()
    card = service.call("GET", "/model/").json() if "/model/" in document["paths"] else {}
    names = {name: {"enum": [card.get(key)]} for name, key in MODEL.items()}
    fixed = {"Photo": PHOTO, "Webhook": NOBODY, **names}
    if sets := document["components"].get("parameters", {}).get("sets"):
        sets["schema"]["enum"] = [int(percent) for percent in card["prediction_sets"]]
    schemas = document["components"]["schemas"]
    schemas |= {name: schema for name, schema in fixed.items() if name in schemas}
    config = {**CONFIG, "generation": {**CONFIG["generation"], "max-examples": each}}
    schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config.from_dict(config))
    schema.config.update(base_url=f"http://127.0.0.1:{service.port}")
    found = Found(Counter(), Counter(), [])
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            found.failures.extend(failures_of(event.recorder))
            sent = event.recorder.interactions.values()
            found.cases[event.recorder.label] += len(sent)
            found.statuses.update(each.response.status_code for each in sent if each.response)
        elif isinstance(event, events.NonFatalError | events.FatalError):
            found.failures.append(str(event))
    return found


def failures_of(recorder: Any) -> Iterator[str]:
    for checks in recorder.checks.values():
        for check in checks:
            if check.failure_info:
                failure = check.failure_info
                yield f"{recorder.label}: {check.name}: {failure.failure} {failure.code_sample}"

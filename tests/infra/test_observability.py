"""The dashboard and the alert rules: each metric in them is one that a running service has."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from draw import photo
from macule import metrics
from prometheus_client.parser import text_string_to_metric_families
from receivers import SECRET, receiver
from service import GUNICORN, ROOT, Service, running, until

FOLDER = ROOT / "infra/observability"
# What Prometheus itself brings: a series of each target, labels of each sample.
GIVEN, GIVEN_LABELS = {"up"}, {"job", "instance"}
SELECTOR = re.compile(r"\b([a-z]+_[a-z_]+|up)\b(?:\{([^}]*)\})?(?!\()")
WORDS = {"group_left", "group_right"}
GROUPS = re.compile(r"\b(?:by|on|without|ignoring) ?\(([^)]*)\)")


def samples(service: Service) -> dict[str, set[str]]:
    """Return what a service has: names of samples, and the labels that each has."""
    found: dict[str, set[str]] = {}
    text = service.call("GET", "/metrics").body.decode()
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            found.setdefault(one.name, set()).update(one.labels)
    return found


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Traffic of all kinds: photos, jobs, webhooks told and given up, a recycle, short memory."""
    told = {"WEBHOOK_SECRETS": SECRET, "WEBHOOK_LOOPBACK": "true", "MAX_REQUESTS": "5"}
    with receiver() as target, running(GUNICORN, tmp_path_factory.mktemp("all"), **told) as service:
        image = base64.b64encode(photo()).decode()
        for way in ("/204", "/410"):
            body = json.dumps({"image": image, "webhook": target.url + way}).encode()
            service.call("POST", "/predictions", body, {"Content-Type": "application/json"})
        until(lambda: len(target.calls) == 4)
        for _ in range(6):
            service.predict(photo(), "?explain=cam")
        service.predict(b"<html>")
        until(lambda: {"macule_recycles_total", "macule_webhooks_total"} <= positive(service))
        found = samples(service)
    with running(GUNICORN, tmp_path_factory.mktemp("short"), MEMORY_LIMIT_MB="60") as service:
        service.predict(photo())
        for name, labels in samples(service).items():
            found.setdefault(name, set()).update(labels)
    return found


def positive(service: Service) -> set[str]:
    text = service.call("GET", "/metrics").body.decode()
    families = text_string_to_metric_families(text)
    return {one.name for family in families for one in family.samples if one.value > 0}


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in panels() for target in panel.get("targets", ()))


def unknown(expression: str, exposed: dict[str, set[str]]) -> set[str]:
    """Return the metrics, and the labels of any of them, that a service does not have."""
    bare = GROUPS.sub("", re.sub(r'"[^"]*"', '""', expression))
    bare = re.sub(r"\b\w+ ?\(", "(", bare)  # functions
    used = [(name, inside) for name, inside in SELECTOR.findall(bare) if name not in WORDS]
    names = {name for name, _ in used} - GIVEN
    wrong = names - exposed.keys()
    for name, inside in used:
        labels = {part.partition("=")[0].strip("!~ ") for part in inside.split(",") if part}
        wrong |= labels - exposed.get(name, set()) - GIVEN_LABELS
    grouped = {
        label.strip() for inside in GROUPS.findall(expression) for label in inside.split(",")
    }
    known = set().union(*(exposed.get(name, set()) for name in names))
    return wrong | (grouped - known - GIVEN_LABELS)


def test_every_metric_in_use_is_there(exposed: dict[str, set[str]]) -> None:
    """Each metric and label of each expression is one that was scraped after real traffic."""
    found = list(expressions())

    assert len(found) >= 45
    assert {each: unknown(each, exposed) for each in found if unknown(each, exposed)} == {}


def test_every_metric_that_exists_was_seen(exposed: dict[str, set[str]]) -> None:
    """The traffic brought a sample of each metric, with the labels that it is said to have."""
    for name, family in metrics.FAMILIES.items():
        sample = f"{name}_bucket" if family.bounds else name
        assert exposed.get(sample, set()) - {"le"} == set(family.labels), name


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("rate(macule_request_total[5m])", {"macule_request_total"}),
        ('macule_requests_total{stage="decode"}', {"stage"}),
        ("sum by (rout) (rate(macule_requests_total[5m]))", {"rout"}),
        ("macule_stage_seconds / macule_slots", {"macule_stage_seconds"}),
        ('up{job="macule"} == 0', set()),
    ],
)
def test_what_is_not_there_is_found(
    exposed: dict[str, set[str]], expression: str, wrong: set[str]
) -> None:
    """The check sees a metric, a label and a grouping that no service has."""
    assert unknown(expression, exposed) == wrong


def test_the_rules_are_whole() -> None:
    """Each alert has its name, severity, summary and, where it waits, a time that can be read."""
    assert len({rule["alert"] for rule in rules()}) == len(rules()) >= 10
    for rule in rules():
        assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() - {"description"} == {"summary"}
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_dashboard_is_whole() -> None:
    """It has the six rows; ids are unique, no panel lies over another, all ask the one source."""
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    places = [
        (panel["gridPos"]["y"], panel["gridPos"]["x"] + place)
        for panel in panels()
        for place in range(panel["gridPos"]["w"])
    ]

    assert rows == [
        "Traffic", "Latency by stage", "Memory ledger", "Refusals", "Jobs and webhooks",
        "Cold starts",
    ]  # fmt: skip
    assert len({panel["id"] for panel in panels()}) == len(panels())
    assert len(set(places)) == len(places)
    for panel in panels():
        for target in panel.get("targets", ()):
            assert target["datasource"] == panel["datasource"]
            assert 'job=~"$job"' in target["expr"]

"""The dashboard and the alert rules with real services and a real Prometheus."""

import base64
import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from macule.observability import metrics
from prometheus_client.parser import text_string_to_metric_families
from support.broker import broker, worker
from support.images import photo
from support.load_clients import free_port
from support.prometheus import Prometheus, prometheus, promtool
from support.service import GUNICORN, GUNICORN_DEV, ROOT, Service, running, until
from support.webhook_receivers import SECRET, receiver

FOLDER = ROOT / "infra/observability"
# What Prometheus itself adds: a series for each target, labels for each sample.
GIVEN, GIVEN_LABELS = {"up"}, {"job", "instance"}
SELECTOR = re.compile(r"\b([a-z]+_[a-z_]+|up)\b(?:\{([^}]*)\})?(?!\()")
WORDS = {"group_left", "group_right"}
GROUPS = re.compile(r"\b(?:by|on|without|ignoring) ?\(([^)]*)\)")
# A service whose photos all cause an internal error.
FAULTY = """
from macule.http.adapters import wsgi
from macule.routes import health, metrics_endpoint
from macule.server import startup

def photo(request):
    raise RuntimeError("a fault of ours")

ROUTES = {"POST /predict/": photo, "GET /health/": health.alive}
ROUTES["GET /metrics"] = metrics_endpoint.show
startup.initialize()
app = wsgi.create_app(ROUTES)
"""
JOBS = ("all", "short", "faulty", "viewed", "worker", "gone")


class Watched(NamedTuple):
    """What Prometheus scraped from all kinds of services; `exposed`: samples and labels."""

    server: Prometheus
    exposed: dict[str, set[str]]
    texts: list[str]


def samples(texts: list[str]) -> dict[str, set[str]]:
    """Return the names of the services' samples, and the labels of each."""
    found: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                found.setdefault(one.name, set()).update(one.labels)
    return found


@pytest.fixture(scope="module")
def scraped_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Produce photos, jobs, webhooks, a recycle, low memory, errors and page views."""
    ports = {f"macule-{name}": free_port() for name in JOBS}
    folders = {name: tmp_path_factory.mktemp(name) for name in JOBS}
    at_once = re.sub(r"\n +for: \w+", "", (FOLDER / "alerts.yaml").read_text())
    with ExitStack() as stack:

        def start(name: str, command: str = GUNICORN, **environment: str) -> Service:
            port = ports[f"macule-{name}"]
            return stack.enter_context(running(command, folders[name], port=port, **environment))

        server = stack.enter_context(prometheus(folders["gone"], ports, at_once))
        (folders["faulty"] / "faulty.py").write_text(FAULTY)
        faulty = start("faulty", f"{GUNICORN_DEV} --pythonpath {folders['faulty']} faulty:app")
        short = start("short", MEMORY_LIMIT_MB="60")
        viewed = start("viewed")
        target = stack.enter_context(receiver())
        settings = {"WEBHOOK_SECRETS": SECRET, "WEBHOOK_LOOPBACK": "true", "MAX_REQUESTS": "5"}
        full = start("all", **settings)
        valkey = stack.enter_context(broker(folders["worker"]))
        where = {"HOST": "127.0.0.1", "WORKER_METRICS_PORT": str(ports["macule-worker"])}
        stack.enter_context(worker(valkey, **where))

        until(lambda: len(server.query("up == 1")) == len(JOBS) - 1)  # each was scraped when idle
        _everything(full, target)
        for _ in range(3):  # counters start and increase
            faulty.predict(photo())
            short.predict(photo())
            full.predict(photo(), "?explain=cam")
            for _ in range(20):
                faulty.call("GET", "/health/")
                viewed.call("GET", "/")
            _scrape(server)
        services = (
            faulty,
            short,
            viewed,
            full,
            Service(full.process, ports["macule-worker"], full.log),
        )
        texts = [each.call("GET", "/metrics").body.decode() for each in services]
        yield Watched(server, samples(texts), texts)


def _everything(service: Service, target: Any) -> None:
    image = base64.b64encode(photo()).decode()
    for way in ("/204", "/410"):
        body = json.dumps({"image": image, "webhook": target.url + way}).encode()
        service.call("POST", "/predictions", body, {"Content-Type": "application/json"})
    until(lambda: len(target.calls) == 4)
    for _ in range(6):
        service.predict(photo(), "?explain=cam")
    service.predict(b"<html>")
    until(lambda: {"macule_recycles_total", "macule_webhooks_total"} <= positive(service))


def _scrape(server: Prometheus) -> None:
    """Wait until Prometheus has scraped all targets again."""
    begin = time.time()
    until(lambda: all(value > begin for _, value in server.query("timestamp(up)")), 60)


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
    """Return the metrics and labels that no service has."""
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


def test_every_used_metric_exists(scraped_services: Watched) -> None:
    """Each metric and label of each expression was scraped after real traffic."""
    wrong = {each: unknown(each, scraped_services.exposed) for each in expressions()}

    assert len(wrong) >= 45
    assert {each: names for each, names in wrong.items() if names} == {}


def test_every_metric_was_scraped(scraped_services: Watched) -> None:
    """The traffic produced a sample of each metric, with its documented labels."""
    for name, family in metrics.FAMILIES.items():
        sample = f"{name}_bucket" if family.bounds else name
        assert scraped_services.exposed.get(sample, set()) - {"le"} == set(family.labels), name


def test_alerts_fire_in_a_real_prometheus(scraped_services: Watched) -> None:
    """Errors, refusals, a dead target and a lost webhook fire; page views and workers do not."""
    expected = {
        "macule-faulty": {"MaculeErrors /predict", "MaculeNotReady"},  # its errors come first
        "macule-short": {"MaculeRefuses /predict"},
        "macule-all": {"MaculeWebhooksGivenUp"},
        "macule-gone": {"MaculeDown"},
    }

    def fired() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for labels in scraped_services.server.firing():
            name = f"{labels['alertname']} {labels.get('route', '')}".strip()
            if name not in ("MaculeNearLimit", "MaculeMemoryCritical"):  # as Python's build has it
                found.setdefault(labels["job"], set()).add(name)
        return found

    with suppress(AssertionError):  # whose difference is more readable
        until(lambda: fired() == expected, 60)
    assert fired() == expected


def test_each_panel_has_data(scraped_services: Watched) -> None:
    """Each expression of the dashboard is valid and returns a number."""
    empty = []
    for panel in panels():
        for target in panel.get("targets", ()):
            asked = target["expr"].replace("$__rate_interval", "5m").replace("$job", "macule.*")
            values = [value for _, value in scraped_services.server.query(asked)]
            if all(map(math.isnan, values)):
                empty.append(asked)

    assert empty == []


def test_promtool_finds_no_error(scraped_services: Watched, tmp_path: Path) -> None:
    """Rules, exposed metrics and the configuration in docs/operate.md are valid."""
    for text in scraped_services.texts:
        assert promtool("check", "metrics", text=text) == ""
    assert promtool("check", "rules", "--lint-fatal", str(FOLDER / "alerts.yaml")) == ""
    assert promtool("check", "config", "--lint-fatal", str(documented(tmp_path))) == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("check", "metrics"), "# TYPE macule_requests counter\nmacule_requests 1\n"),
        (("check", "metrics"), "macule_requests_total{ 1\n"),
        (("check", "rules"), 'groups: [{name: a, rules: [{alert: A, expr: "sum("}]}]'),
        (("check", "rules"), "groups: [{name: a, rules: [{alert: A, expression: up}]}]"),
        (("check", "config"), "scrape_configs: [{job: macule}]"),
        (("check", "config"), "rule_files: [nowhere.yaml]"),
    ],
)
def test_promtool_finds_a_mistake(words: tuple[str, ...], text: str, tmp_path: Path) -> None:
    """Invalid and oddly named metrics, rules and configurations are reported."""
    file = tmp_path / "slip.yaml"
    file.write_text(text)
    given = () if "metrics" in words else (str(file),)

    assert promtool(*words, *given, text=text) != ""


def documented(folder: Path) -> Path:
    """Write the configuration in docs/operate.md, with the rules beside it."""
    text = (ROOT / "docs/operate.md").read_text()
    (block,) = re.findall(r"```\w*\n(scrape_configs:.*?)```", text, re.DOTALL)
    (folder / "alerts.yaml").write_text((FOLDER / "alerts.yaml").read_text())
    file = folder / "prometheus.yaml"
    file.write_text(block)
    return file


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
def test_missing_metrics_are_detected(
    scraped_services: Watched, expression: str, wrong: set[str]
) -> None:
    """The check detects a metric, a label and a grouping that no service has."""
    assert unknown(expression, scraped_services.exposed) == wrong


def test_the_rules_are_complete() -> None:
    """Each alert has a name, severity, summary and, if it waits, a valid duration."""
    assert len({rule["alert"] for rule in rules()}) == len(rules()) >= 10
    for rule in rules():
        assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() - {"description"} == {"summary"}
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_dashboard_is_complete() -> None:
    """It has six rows, unique ids, no overlapping panels, and one data source."""
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

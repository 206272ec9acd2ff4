"""Each alert rule, tested with promtool on series that must fire it and on similar ones."""

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any, NamedTuple

from support.service import ROOT, need

RULES = ROOT / "infra/observability/alerts.yaml"
MINUTES = 40
LABELS = ("alertname", "job", "instance", "route", "method", "slug", "outcome")


class Case(NamedTuple):
    """What Prometheus scrapes each minute, in promtool's notation, and what fires at the end.

    Series without these labels get the instance `a` and the case's own job, whose `up` is 1.
    `fires`: the labels of the alert that fires; None if none may fire.
    """

    alert: str
    what: str
    series: dict[str, str]
    fires: dict[str, str] | None


def requests(route: str, status: int, method: str = "POST", **more: str) -> str:
    labels = {"route": route, "method": method, "status": str(status), **more}
    return f"macule_requests_total{_braces(labels)}"


def steady(per_minute: float) -> str:
    return f"0+{per_minute:g}x{MINUTES}"


def always(value: float) -> str:
    return f"{value:g}x{MINUTES}"


def _braces(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


A = {"instance": "a"}
INFER = "/v2/models/{name}/infer"
UNLOADED, LOADED = {"macule_models_loaded": always(0)}, {"macule_models_loaded": always(1)}
BUSY_HEALTH = {requests("/health", 200, "GET"): steady(6000)}
PAGE_VIEWS = {
    requests("/", 200, "GET"): steady(600),
    requests("/page/{file}", 200, "GET"): steady(2400),
}
BURST = f"0x10 0+30x1 30x{MINUTES}"  # within one minute, long ago
RESTART = f"50x{MINUTES - 3} 0x5"  # a counter of a new process
WAITING, LIMIT = "macule_jobs_waiting", "macule_jobs_limit"
ALIVE, BAND = "macule_worker_alive", 'macule_memory_band{band="%s"}'
SUM, COUNT = "macule_cold_start_seconds_sum", "macule_cold_start_seconds_count"
STARTED = "process_start_time_seconds"
UP = "up"

CASES = [
    Case("MaculeNotWatched", "no target at all", {UP: "_"}, {}),
    Case("MaculeNotWatched", "targets of other jobs", {UP: "_", 'up{job="node"}': always(1)}, {}),
    Case(
        "MaculeNotWatched", "workers alone", {UP: "_", 'up{job="macule-worker"}': always(1)}, None
    ),
    Case("MaculeDown", "it does not answer", {UP: always(0)}, A),
    Case("MaculeDown", "one scrape failed", {UP: f"1x{MINUTES - 1} 0 1"}, None),
    Case("MaculeDown", "another job's is down", {'up{job="node"}': always(0)}, None),
    *[
        Case(
            "MaculeNotReady",
            f"{status} at {route}",
            {**UNLOADED, requests(route, status): f"0x{MINUTES - 6} 0+1x8"},
            A,
        )
        for route, status in (("/", 503), ("/predict", 503), (INFER, 503), ("/predict", 507))
    ],
    Case("MaculeNotReady", "page views alone", {**UNLOADED, **PAGE_VIEWS, **BUSY_HEALTH}, None),
    Case(
        "MaculeNotReady", "pages refused", {**UNLOADED, requests("/", 503, "GET"): steady(9)}, None
    ),
    Case(
        "MaculeNotReady",
        "callers without a key, and what is no photo",
        {**UNLOADED, requests("/predict", 401): steady(9), requests("/predict", 415): steady(9)},
        None,
    ),
    Case(
        "MaculeNotReady",
        "photos that were all answered, and a restart",
        {**UNLOADED, requests("/predict", 200): RESTART, requests("/predict", 503): RESTART},
        None,
    ),
    Case(
        "MaculeNotReady",
        "an instance at rest beside one that is busy",
        {
            **LOADED,
            'macule_models_loaded{instance="b"}': always(0),
            requests("/predict", 200): steady(900),
            requests("/predict", 503): steady(9),
        },
        None,
    ),
    Case(
        "MaculeNotReady",
        "predictions that others work on",
        {
            **UNLOADED,
            requests("/predictions", 202): steady(60),
            requests("/predictions", 503): steady(1),
        },
        None,
    ),
    Case(
        "MaculeErrors",
        "failing photos beside a busy /health/",
        {**LOADED, **BUSY_HEALTH, requests("/predict", 500): steady(1)},
        {"route": "/predict", "method": "POST"},
    ),
    Case(
        "MaculeErrors",
        "failing photos beside page views of the same route",
        {**LOADED, **PAGE_VIEWS, requests("/", 500): steady(1)},
        {"route": "/", "method": "POST"},
    ),
    Case(
        "MaculeErrors",
        "one instance of ten",
        {
            requests("/predict", 500): steady(1),
            **{requests("/predict", 200, instance=f"i{n}"): steady(1) for n in range(9)},
        },
        {"route": "/predict", "method": "POST"},
    ),
    Case(
        "MaculeErrors",
        "callers' own mistakes",
        {requests("/predict", status): steady(60) for status in (400, 413, 415, 422, 429)},
        None,
    ),
    Case(
        "MaculeErrors",
        "one of 200",
        {requests("/predict", 200): steady(199), requests("/predict", 500): steady(1)},
        None,
    ),
    Case("MaculeErrors", "a burst, long ago", {requests("/predict", 500): BURST}, None),
    Case("MaculeErrors", "a restart", {requests("/predict", 500): RESTART}, None),
    *[
        Case(
            "MaculeJobErrors",
            slug,
            {f'macule_jobs_total{{status="failed",slug="{slug}"}}': f"0x{MINUTES - 5} 1x9"},
            {"slug": slug},
        )
        for slug in ("internal", "worker-died")
    ],
    Case(
        "MaculeJobErrors",
        "bad images, and a fault long ago",
        {
            'macule_jobs_total{status="failed",slug="bad-image"}': steady(60),
            'macule_jobs_total{status="failed",slug="internal"}': f"0x5 1x{MINUTES}",
            'macule_jobs_total{status="succeeded",slug=""}': steady(60),
        },
        None,
    ),
    *[
        Case(
            "MaculeRefuses",
            f"{status} at {route}",
            {
                **LOADED,
                **PAGE_VIEWS,
                **BUSY_HEALTH,
                requests("/predict", 200): steady(900),
                requests(route, 202): steady(9),
                requests(route, status): steady(1),
            },
            {"route": route},
        )
        for route, status in (("/", 503), (INFER, 503), (INFER, 507), ("/predictions", 503))
    ],
    Case(
        "MaculeRefuses",
        "one of 30, a quota, and routes without photos",
        {
            requests("/predict", 200): steady(29),
            requests("/predict", 503): steady(1),
            requests("/predict", 429): steady(60),
            requests("/ready", 503, "GET"): steady(60),
            requests("/predictions/{id}", 503, "GET"): steady(60),
        },
        None,
    ),
    Case("MaculeRefuses", "a burst, long ago", {**LOADED, requests("/predict", 503): BURST}, None),
    *[
        Case("MaculeMemoryCritical", band, {BAND % band: always(1)}, A)
        for band in ("critical", "oom_imminent")
    ],
    Case(
        "MaculeMemoryCritical",
        "between two bands, both critical",
        {BAND % "critical": "1 0 " * MINUTES, BAND % "oom_imminent": "0 1 " * MINUTES},
        A,
    ),
    Case(
        "MaculeMemoryCritical",
        "another band, or not for long",
        {BAND % "predicting": always(1), BAND % "critical": f"0x{MINUTES - 3} 1x9"},
        None,
    ),
    *[
        Case(
            "MaculeNearLimit",
            f"{share:.0%} of the limit",
            {
                "macule_memory_unreclaimable_bytes": always(share * 512),
                "macule_memory_limit_bytes": always(512),
            },
            A if share >= 0.93 else None,
        )
        for share in (0.92, 0.9375)
    ],
    Case("MaculeRecycles", "one in three minutes", {"macule_recycles_total": steady(1 / 3)}, A),
    Case("MaculeRecycles", "one in ten", {"macule_recycles_total": steady(0.1)}, None),
    Case("MaculeRecycles", "many, long ago", {"macule_recycles_total": always(50)}, None),
    Case("MaculeRecycles", "a restart", {"macule_recycles_total": RESTART}, None),
    Case(
        "MaculeWebhookBacklog",
        "one queue that two instances tell of",
        {
            "macule_webhooks_waiting": always(101),
            'macule_webhooks_waiting{instance="b"}': always(101),
        },
        {},
    ),
    Case(
        "MaculeWebhookBacklog",
        "100 that two instances tell of",
        {
            "macule_webhooks_waiting": always(100),
            'macule_webhooks_waiting{instance="b"}': always(100),
        },
        None,
    ),
    Case(
        "MaculeWebhookBacklog",
        "many, but not for long",
        {"macule_webhooks_waiting": f"0x{MINUTES - 9} 900x20"},
        None,
    ),
    Case(
        "MaculeWebhooksGivenUp",
        "the first one",
        {'macule_webhooks_total{outcome="given_up"}': f"0x{MINUTES - 5} 1x9"},
        {"outcome": "given_up", **A},
    ),
    Case(
        "MaculeWebhooksGivenUp",
        "none lately; delivered ones; a restart",
        {
            'macule_webhooks_total{outcome="given_up"}': RESTART,
            'macule_webhooks_total{outcome="delivered"}': steady(9),
        },
        None,
    ),
    Case("MaculeJobBacklog", "60 of 100", {WAITING: always(60), LIMIT: always(100)}, {}),
    Case(
        "MaculeJobBacklog",
        "one queue that two instances tell of",
        {
            WAITING: always(501),
            LIMIT: always(1000),
            f'{WAITING}{{instance="b"}}': always(501),
            f'{LIMIT}{{instance="b"}}': always(1000),
        },
        {},
    ),
    Case(
        "MaculeJobBacklog",
        "600 of 2000 that two instances tell of",
        {
            WAITING: always(600),
            LIMIT: always(2000),
            f'{WAITING}{{instance="b"}}': always(600),
            f'{LIMIT}{{instance="b"}}': always(2000),
        },
        None,
    ),
    Case(
        "MaculeJobBacklog",
        "many, but not for long",
        {WAITING: f"0x{MINUTES - 6} 900x9", LIMIT: always(1000)},
        None,
    ),
    Case("MaculeJobBacklog", "a broker that does not answer", {WAITING: "900x9"}, None),
    Case("MaculeWorkerStuck", "its loop stands still", {ALIVE: f"1x{MINUTES - 4} 0x9"}, A),
    Case("MaculeWorkerStuck", "it was away for a minute", {ALIVE: f"1x{MINUTES - 1} 0 1"}, None),
    Case(
        "MaculeColdStartSlow",
        "a load between scrapes",
        {SUM: f"0x{MINUTES - 5} 8x9", COUNT: f"0x{MINUTES - 5} 1x9", STARTED: always(0)},
        A,
    ),
    Case(
        "MaculeColdStartSlow",
        "a load before the first scrape",
        {SUM: f"_x{MINUTES - 5} 8x9", COUNT: f"_x{MINUTES - 5} 1x9", STARTED: always(60 * 30)},
        A,
    ),
    Case(
        "MaculeColdStartSlow",
        "a restart whose counters look like those before",
        {SUM: always(8), COUNT: always(1), STARTED: f"-9999x{MINUTES - 5} {60 * 35}x9"},
        A,
    ),
    Case(
        "MaculeColdStartSlow",
        "a fast one lately, a slow one long ago",
        {SUM: f"8x{MINUTES - 5} 9x9", COUNT: f"1x{MINUTES - 5} 2x9", STARTED: always(-9999)},
        None,
    ),
    Case(
        "MaculeColdStartSlow",
        "a slow one long ago, beside an instance that has just started",
        {
            SUM: always(8),
            COUNT: always(1),
            STARTED: always(-9999),
            f'{STARTED}{{instance="b"}}': always(60 * 30),
        },
        None,
    ),
    Case(
        "MaculeColdStartSlow",
        "none yet",
        {SUM: always(0), COUNT: always(0), STARTED: always(60 * 30)},
        None,
    ),
    Case("MaculeLogLost", "one line", {"macule_log_lines_lost_total": f"0x{MINUTES - 2} 1x9"}, A),
    Case(
        "MaculeLogLost", "one long ago", {"macule_log_lines_lost_total": f"0x9 1x{MINUTES}"}, None
    ),
    Case("MaculeLogLost", "a restart", {"macule_log_lines_lost_total": RESTART}, None),
]


def rules() -> tuple[str, dict[str, str]]:
    """Return the text above the rules, and the text of each rule by its name."""
    head, *texts = RULES.read_text().split("      - alert: ")
    return head, {text.split("\n", 1)[0]: text for text in texts}


def job(number: int) -> str:
    """Return the job of a case: rules group by job, so that one run can test all cases."""
    return f"macule-{number}"


def with_job(series: str, number: int) -> str:
    """Add the missing job and instance labels to a series."""
    name, _, inside = series.rstrip("}").partition("{")
    labels = {"job": job(number), **A}
    for part in filter(None, inside.split('",')):
        label, value = part.split("=", 1)
        labels[label] = value.strip('"')
    return name + _braces(labels)


def scraped(numbers: Iterable[int]) -> list[dict[str, str]]:
    return [
        {"series": with_job(series, number), "values": values}
        for number in numbers
        for series, values in {UP: always(1), **CASES[number].series}.items()
    ]


def expected_alerts(number: int, name: str = "") -> list[dict[str, Any]]:
    """Return what fires in a case; *name*: of the alert, if it differs."""
    case = CASES[number]
    if case.fires is None:
        return []
    own = {} if case.alert == "MaculeNotWatched" else {"job": job(number)}
    return [{"labels": _braces({"alertname": name or case.alert, **own, **case.fires}), "value": 1}]


def question(expected: list[dict[str, Any]], **labels: str) -> dict[str, Any]:
    """Ask which alerts with *labels* fire at the end."""
    wanted = {"alertstate": "firing", **labels}
    return {
        "expr": f"group by ({','.join(LABELS)}) (ALERTS{_braces(wanted)})",
        "eval_time": f"{MINUTES}m",
        "exp_samples": expected,
    }


def run_promtool(
    folder: Path, text: str, tests: Iterable[tuple[list[dict[str, str]], list[dict[str, Any]]]]
) -> str:
    """Run promtool on the rules of *text*, with the series and questions of each test."""
    (folder / "alerts.yaml").write_text(text)
    document = {
        "rule_files": ["alerts.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {"interval": "1m", "input_series": series, "promql_expr_test": questions}
            for series, questions in tests
        ],
    }
    (folder / "tests.yaml").write_text(json.dumps(document))  # JSON is valid YAML
    command = [need("prometheus", "promtool"), "test", "rules", str(folder / "tests.yaml")]
    return subprocess.run(command, stdout=PIPE, stderr=STDOUT, text=True, check=False).stdout


# Cases of the first alert are about missing series, so each runs alone.
ALONE = [number for number, case in enumerate(CASES) if case.alert == "MaculeNotWatched"]
BESIDE = [number for number in range(len(CASES)) if number not in ALONE]


def test_each_alert_fires_in_its_cases(tmp_path: Path) -> None:
    """In each case the expected alert fires with its labels, or none, and no other alert."""
    questions = [question(expected_alerts(number), job=job(number)) for number in BESIDE]
    tests = [(scraped(BESIDE), [*questions, question([], job="node")])]
    tests += [(scraped([number]), [question(expected_alerts(number))]) for number in ALONE]
    found = run_promtool(tmp_path, RULES.read_text(), tests)

    assert found.split() == ["Unit", "Testing:", f"{tmp_path}/tests.yaml", "SUCCESS"], found


def test_each_alert_has_cases_of_both_kinds() -> None:
    """Each alert has a case in which it fires and one in which it does not."""
    assert {case.alert for case in CASES if case.fires is not None} == rules()[1].keys()
    assert {case.alert for case in CASES if case.fires is None} == rules()[1].keys()


SLIPS = [
    ("MaculeNotWatched", 'up{job=~"macule.*"}', "up"),
    ("MaculeNotWatched", 'job=~"macule.*"', 'job="macule"'),
    ("MaculeDown", 'up{job=~"macule.*"}', "up"),
    ("MaculeDown", 'job=~"macule.*"', 'job="macule"'),
    ("MaculeDown", "for: 1m", "for: 0m"),
    ("MaculeNotReady", 'method="POST",', ""),
    ("MaculeNotReady", ',status=~"5.."', ""),
    ("MaculeNotReady", "5..", "503"),
    ("MaculeNotReady", "|/v2/.*/infer", ""),
    ("MaculeNotReady", '"/|/predict', '"/predict'),
    ("MaculeNotReady", "/|/predict", "/|/predict|/predictions"),
    ("MaculeNotReady", "(job, instance)", "(job)"),
    ("MaculeNotReady", "increase(", "max_over_time("),
    ("MaculeErrors", "job, route, method", "job"),
    ("MaculeErrors", "job, route, method", "job, route"),
    ("MaculeErrors", "job, route, method", "job, route, method, instance"),
    ("MaculeErrors", '"500"', '"5.."'),
    ("MaculeErrors", "0.01", "0.001"),
    ("MaculeErrors", "[5m]", "[1h]"),
    ("MaculeErrors", "rate(", "max_over_time("),
    ("MaculeJobErrors", ',slug=~"internal|bad-setting|worker-died"', ""),
    ("MaculeJobErrors", "|worker-died", ""),
    ("MaculeJobErrors", "increase(", "max_over_time("),
    ("MaculeRefuses", 'method="POST",', ""),
    ("MaculeRefuses", "|/v2/.*/infer", ""),
    ("MaculeRefuses", "|/predictions", ""),
    ("MaculeRefuses", "job, route", "job"),
    ("MaculeRefuses", "503|507", "503"),
    ("MaculeRefuses", "503|507", "503|507|429"),
    ("MaculeRefuses", "[5m]", "[1h]"),
    ("MaculeRefuses", "0.05", "0.01"),
    ("MaculeMemoryCritical", "max by (job, instance) ", ""),
    ("MaculeMemoryCritical", "critical|oom_imminent", "critical"),
    ("MaculeMemoryCritical", "critical|oom_imminent", "critical|oom_imminent|predicting"),
    ("MaculeMemoryCritical", "for: 5m", "for: 1m"),
    ("MaculeNearLimit", "0.93", "0.98"),
    ("MaculeNearLimit", "0.93", "0.88"),
    ("MaculeRecycles", "[1h]", "[5m]"),
    ("MaculeRecycles", "> 10", "> 1"),
    ("MaculeRecycles", "increase(macule_recycles_total[1h])", "macule_recycles_total"),
    ("MaculeWebhookBacklog", "max by (job) ", ""),
    ("MaculeWebhookBacklog", "max by", "sum by"),
    ("MaculeWebhookBacklog", "for: 15m", "for: 5m"),
    ("MaculeWebhooksGivenUp", '{outcome="given_up"}', ""),
    ("MaculeWebhooksGivenUp", "increase", "rate(macule_webhooks_total[1m]) > 0 or increase"),
    ("MaculeJobBacklog", "macule_jobs_waiting / macule_jobs_limit) > 0.5", WAITING + ") > 500"),
    ("MaculeJobBacklog", "max by", "sum by"),
    ("MaculeJobBacklog", "max by (job) ", ""),
    ("MaculeJobBacklog", "for: 10m", "for: 5m"),
    ("MaculeWorkerStuck", "for: 2m", "for: 0m"),
    ("MaculeWorkerStuck", "== 0", "== 1"),
    ("MaculeColdStartSlow", "< 1800", "< 60"),
    ("MaculeColdStartSlow", "on (job, instance)", "on (job)"),
    ("MaculeColdStartSlow", "increase(macule_cold_start_seconds_sum[30m])", SUM),
    ("MaculeColdStartSlow", "or (", "and ("),
    ("MaculeLogLost", "[5m]", "[1h]"),
    ("MaculeLogLost", "increase(macule_log_lines_lost_total[5m])", "macule_log_lines_lost_total"),
]  # fmt: skip


def test_each_mistake_in_a_rule_is_detected(tmp_path: Path) -> None:
    """The cases detect each mistake in a rule, and accept each rule without one."""
    head, texts = rules()
    slips = [*SLIPS, *((alert, "", "") for alert in texts)]
    for number, (alert, text, slip) in enumerate(slips):
        assert text in texts[alert], (alert, text)
        head += f"      - alert: Slip{number}\n"
        head += texts[alert].split("\n", 1)[1].replace(text, slip)

    def questions(numbers: list[int]) -> list[dict[str, Any]]:
        """Ask for the results of the rule without its mistake."""
        asked = []
        for place, (alert, _, _) in enumerate(slips):
            own = [number for number in numbers if CASES[number].alert == alert]
            expected = [one for number in own for one in expected_alerts(number, f"Slip{place}")]
            asked.append(question(expected, alertname=f"Slip{place}"))
        return asked

    tests = [(scraped(numbers), questions(numbers)) for numbers in (BESIDE, *([n] for n in ALONE))]
    found = run_promtool(tmp_path, head, tests)
    seen = {int(place) for place in re.findall(r'expr: .*alertname=\\"Slip(\d+)', found)}

    assert [slip for place, slip in enumerate(slips) if place not in seen] == slips[len(SLIPS) :]

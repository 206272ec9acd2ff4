"""Render blueprints and the workflow that pings: each mistake is rejected."""

import pytest
from support.mutants import complaints

MUTANTS = [
    ("render.yaml", "plan: <<plan>>", "plan: small", "is not one of"),
    (
        "render.yaml",
        "    plan: <<plan>> # the cheapest plan with predict.memory_mb\n",
        "",
        "'plan' is a required",
    ),
    ("render.yaml", "startCommand", "startComand", "'startComand' was unexpected"),
    ("render.yaml", "runtime: python", "env: python", "'env' was unexpected"),
    ("render.yaml", 'value: "<<predict.threads>>"', "value: <<predict.threads>>", "THREADS is"),
    ("render.yaml", '"<<python>>"', '"3.9.0"', "PYTHON_VERSION is '3.9.0'"),
    (
        "render.yaml",
        "healthCheckPath: /health/",
        "healthCheckPath: /predict/",
        "no route that answers",
    ),
    (
        "render.yaml",
        "Seconds: <<predict.grace_s + stop_s>>",
        "Seconds: 400",
        "400 is greater than the maximum of 300",
    ),
    ("render.yaml", "Seconds: <<predict.grace_s + stop_s>>", "Seconds: 1", "is not above grace_s"),
    (
        "infra/render/queue.yaml",
        'autoDeployTrigger: "off"',
        "autoDeployTrigger: off",
        "False is not one",
    ),
    (
        "infra/render/queue.yaml",
        "    ipAllowList: [] # only reachable from the private network\n",
        "",
        "'ipAllowList'",
    ),
    (
        "infra/render/queue.yaml",
        "plan: <<paid>> # workers",
        "plan: free # workers",
        "'free' is not one of",
    ),
    (
        "infra/render/queue.yaml",
        "type: keyvalue\n    name",
        "type: redis\n    name",
        "'redis' is not",
    ),
    ("infra/render/warmup.yml", "<<warmup_cron>>", "0 0 1 * *", "the schedule is"),
    ("infra/render/warmup.yml", "permissions: {}", "permissions: write-all", "it has permissions"),
    ("infra/render/warmup.yml", "/warmup/", "/predict/", "does not ask for /warmup/"),
]


@pytest.mark.parametrize(("path", "text", "slip", "expected"), MUTANTS, ids=lambda part: part[:40])
def test_a_mutant_is_rejected(path: str, text: str, slip: str, expected: str) -> None:
    """A template with one mistake is rejected, and the complaint names it."""
    found = complaints(path, text, slip)

    assert any(expected in complaint for complaint in found), found

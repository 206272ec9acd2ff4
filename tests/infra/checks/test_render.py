"""Render blueprints and the workflow that pings: each slip is rejected."""

import pytest
from mutants import complaints

MUTANTS = [
    ("render.yaml", "plan: free", "plan: small", "is not one of"),
    (
        "render.yaml",
        "    plan: free # the cheapest with predict.memory_mb\n",
        "",
        "'plan' is a required",
    ),
    ("render.yaml", "startCommand", "startComand", "'startComand' was unexpected"),
    ("render.yaml", "runtime: python", "env: python", "'env' was unexpected"),
    ("render.yaml", 'value: "256"', "value: 256", "THREADS is 256, not '256'"),
    ("render.yaml", '"3.13.5"', '"3.14.0"', "PYTHON_VERSION is '3.14.0'"),
    (
        "render.yaml",
        "healthCheckPath: /health/",
        "healthCheckPath: /predict/",
        "no route that answers",
    ),
    ("render.yaml", "Seconds: 30", "Seconds: 400", "400 is greater than the maximum of 300"),
    ("render.yaml", "Seconds: 30", "Seconds: 20", "is not above grace_s"),
    (
        "infra/render/queue.yaml",
        'autoDeployTrigger: "off"',
        "autoDeployTrigger: off",
        "False is not one",
    ),
    (
        "infra/render/queue.yaml",
        "    ipAllowList: [] # reached from inside alone\n",
        "",
        "'ipAllowList'",
    ),
    (
        "infra/render/queue.yaml",
        "plan: starter # workers",
        "plan: free # workers",
        "'free' is not one of",
    ),
    (
        "infra/render/queue.yaml",
        "type: keyvalue\n    name",
        "type: redis\n    name",
        "'redis' is not",
    ),
    ("infra/render/warmup.yml", "*/10 * * * *", "*/20 * * * *", "the schedule is"),
    ("infra/render/warmup.yml", "permissions: {}", "permissions: write-all", "it has permissions"),
    ("infra/render/warmup.yml", "/warmup/", "/predict/", "does not ask for /warmup/"),
]


@pytest.mark.parametrize(("path", "text", "slip", "said"), MUTANTS, ids=lambda part: part[:40])
def test_a_mutant_is_rejected(path: str, text: str, slip: str, said: str) -> None:
    """A template with one slip in it is rejected, and the complaint names the slip."""
    found = complaints(path, text, slip)

    assert any(said in complaint for complaint in found), found

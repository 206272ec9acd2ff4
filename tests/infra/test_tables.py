"""Every valid change of the table gives templates that the platforms accept."""

from typing import Any

import pytest
from support.mutants import changed, complaints

from infra import checks, generate, platforms

BANDS = {"loaded": 0.2, "predicting": 0.6, "critical": 0.8, "oom_imminent": 0.95}
TABLES: dict[str, dict[str, Any]] = {
    "small": {"predict.memory_mb": 256},
    "large": {"predict.memory_mb": 1024},
    "huge": {"predict.memory_mb": 8192, "predict.cpu": 4, "predict.concurrency": 80},
    "least": {"predict.memory_mb": 128, "predict.cpu": 0.083, "predict.concurrency": 1},
    "patient": {"predict.timeout_s": 900, "predict.grace_s": 295, "health.timeout_s": 900},
    "hasty": {"predict.timeout_s": 5, "predict.grace_s": 10, "health.grace_s": 1},
    "pinged hourly": {"warmup_minutes": 60},
    "pinged often": {"warmup_minutes": 5},
    "many": {"predict.max_instances": 1000, "health.max_instances": 1},
    "arm": {"architecture": "arm64", "predict.extras": ["redis", "otel"]},
    "oldest Python": {"python": f"3.12.{platforms.PYTHONS['3.12']}"},
    "newest Python": {"python": f"3.14.{platforms.PYTHONS['3.14']}"},
    "bodies": {"predict.body_mb": 64, "predict.threads": 8, "predict.bands": BANDS},
    "rollout": {"rollout.canary_percent": 10, "rollout.alarms": True, "rollout.p99_ms": 500},
    "keys": {"api_keys": True},
    "name": {"name": "lesions", "health.memory_mb": 256, "health.threads": 1},
}


# Linting the clouds' templates takes seconds a table: the tightest table, the longest one and
# the one with every option enabled represent the others.
FAST = ("least", "patient", "rollout")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in TABLES],
)
def test_a_changed_table_gives_valid_templates(name: str) -> None:
    """Every check accepts the template that the table generates."""
    table = changed(TABLES[name])

    found = {
        path: list(checks.CHECKS[path](text, table))
        for path, text in generate.outputs(table).items()
    }

    assert found == {path: [] for path in checks.CHECKS}


@pytest.mark.parametrize(
    ("path", "text", "slip", "expected"),
    [
        ("infra/knative/predict.yaml", "arch: arm64", "arch: amd64", "nodeSelector is"),
        ("infra/knative/health.yaml", "nodeSelector:", "nodeSelecter:", "nodeSelecter"),
        ("infra/knative/predict.Dockerfile", "linux/arm64", "linux/amd64", "FROM is"),
        ("infra/knative/health.Dockerfile", "--platform=linux/arm64 ", "", "FROM is"),
    ],
)
def test_another_architecture_is_rejected(path: str, text: str, slip: str, expected: str) -> None:
    """With arm64 the pod's nodes and the image's platform must be arm64."""
    found = complaints(path, text, slip, changed({"architecture": "arm64"}))

    assert any(expected in complaint for complaint in found), found

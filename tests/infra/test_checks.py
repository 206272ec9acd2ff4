"""Each check accepts what is deployed, and each can fail: a mutant of every kind is rejected."""

import pytest
from service import ROOT

from infra import checks, limits

TABLE = limits.read()
# A file, a text in it, what a slip makes of it, and what the check says.
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
    ("infra/gcp/predict.yaml", "memory: 512Mi", "memory: 512MB", "memory is 512MB, not 512Mi"),
    ("infra/gcp/predict.yaml", "memory: 512Mi", "memory: 256Mi", "memory is 256Mi, not 512Mi"),
    (
        "infra/gcp/predict.yaml",
        "cpu: 1000m",
        "cpu: 500m",
        "concurrency 8 needs at least one processor",
    ),
    (
        "infra/gcp/predict.yaml",
        "containerConcurrency: 8",
        'containerConcurrency: "8"',
        "not of type",
    ),
    (
        "infra/gcp/predict.yaml",
        "timeoutSeconds: 60",
        "timeoutSecs: 60",
        "'timeoutSecs' was unexpected",
    ),
    ("infra/gcp/predict.yaml", 'maxScale: "10"', 'maxScale: "1000"', "maxScale is '1000'"),
    ("infra/gcp/health.yaml", "containerConcurrency: 1", "containerConcurrency: 4", "at least one"),
    ("infra/gcp/health.yaml", "path: /health/", "path: /memory/", "no route that answers"),
    ("infra/gcp/main.tf", '"python313"', '"python39"', "runtime is python39"),
    ("infra/gcp/main.tf", "available_memory ", "available_ram ", "'availableRam' was unexpected"),
    ("infra/gcp/main.tf", "retry_count = 0", "retry_count = 5", "retry_count must be 0"),
    ("infra/gcp/main.tf", "    retry_count = 0", "    retries = 0", "'retries' was unexpected"),
    ("infra/gcp/main.tf", '"enforced"', '"inherited"', "may be opened to the public"),
    (
        "infra/gcp/main.tf",
        "count    = var.public ? 1 : 0",
        "count    = 1",
        "whatever var.public says",
    ),
    (
        "infra/gcp/main.tf",
        "predict.service_config[0].uri}/",
        "health.service_config[0].uri}/",
        "not predict",
    ),
    ("infra/aws/template.yaml", "MemorySize: 512", "MemorySize: 20480", "is not 128 to 10240"),
    ("infra/aws/template.yaml", "MemorySize: 512", "MemorySize: 256", "MemorySize is 256, not 512"),
    ("infra/aws/template.yaml", "MemorySize: 512", "MemorySise: 512", "MemorySise"),
    ("infra/aws/template.yaml", "Runtime: python3.13", "Runtime: python3.1", "python3.1"),
    ("infra/aws/template.yaml", "Timeout: 60", "Timeout: 6000", "6000"),
    ("infra/aws/template.yaml", "AuthType: !Ref UrlAuth", "AuthType: OPEN", "AWS_IAM or NONE"),
    ("infra/aws/template.yaml", "rate(10 minutes)", "rate(10 minute)", "rate(10 minute)"),
    ("infra/aws/template.yaml", "Attempts: 0", "Attempts: 9", "MaximumRetryAttempts must be 0"),
    (
        "infra/aws/template.yaml",
        "      AutoPublishAlias: live\n",
        "      AutoPublishAlias: live\n      Policies: [AdministratorAccess]\n",
        "a managed policy beyond",
    ),
    ("infra/aws/template.yaml", "      Layers: [!Ref Layer]\n", "", "Layers are None"),
    ("infra/aws/template.yaml", "!Ref Layer]", "!Ref Lair]", "Lair"),
    (
        "infra/knative/predict.yaml",
        "runAsNonRoot: true",
        "runAsNonRoot: false",
        "runAsNonRoot is False",
    ),
    ("infra/knative/predict.yaml", "memory: 512Mi", "memory: 1Gi", "memory is '1Gi', not '512Mi'"),
    (
        "infra/knative/predict.yaml",
        "readinessProbe",
        "readynessProbe",
        "'readynessProbe' was unexpected",
    ),
    ("infra/knative/health.yaml", "THREADS", "THREDS", "THREADS is None"),
    ("infra/knative/predict.Dockerfile", "python:3.13.5-slim", "python:3.13.5-alpine", "FROM is"),
    ("infra/knative/predict.Dockerfile", "USER 10001", "USER root", "USER is 'root'"),
    (
        "infra/knative/health.Dockerfile",
        '"infra/gunicorn.conf.py"',
        '"gunicorn.py"',
        "does not read",
    ),
    ("infra/render/warmup.yml", "*/10 * * * *", "*/20 * * * *", "the schedule is"),
    ("infra/render/warmup.yml", "permissions: {}", "permissions: write-all", "it has permissions"),
    ("infra/render/warmup.yml", "/warmup/", "/predict/", "does not ask for /warmup/"),
]


@pytest.mark.parametrize("path", checks.CHECKS)
def test_what_is_deployed_is_accepted(path: str) -> None:
    """No check finds anything in the committed template."""
    assert list(checks.CHECKS[path]((ROOT / path).read_text(), TABLE)) == []


@pytest.mark.parametrize(("path", "text", "slip", "said"), MUTANTS, ids=lambda part: part[:40])
def test_a_mutant_is_rejected(path: str, text: str, slip: str, said: str) -> None:
    """A template with one slip in it is rejected, and the complaint names the slip."""
    whole = (ROOT / path).read_text()
    assert text in whole
    complaints = list(checks.CHECKS[path](whole.replace(text, slip, 1), TABLE))

    assert any(said in complaint for complaint in complaints), complaints


def test_every_template_with_limits_is_checked() -> None:
    """Each template has a check, and mutants of each show that it can fail."""
    from infra import generate

    assert set(generate.OUTPUTS) == set(checks.CHECKS) == {path for path, *_ in MUTANTS}

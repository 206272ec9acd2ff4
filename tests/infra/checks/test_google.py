"""Cloud Run services and the Terraform of functions: each slip is rejected."""

import pytest
from mutants import complaints

MUTANTS = [
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
]


@pytest.mark.parametrize(("path", "text", "slip", "said"), MUTANTS, ids=lambda part: part[:40])
def test_a_mutant_is_rejected(path: str, text: str, slip: str, said: str) -> None:
    """A template with one slip in it is rejected, and the complaint names the slip."""
    found = complaints(path, text, slip)

    assert any(said in complaint for complaint in found), found

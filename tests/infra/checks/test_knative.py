"""Knative services and their images: each slip is rejected."""

import pytest
from mutants import complaints

MUTANTS = [
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
        '"infra.serve"',
        '"gunicorn"',
        "does not run",
    ),
]


@pytest.mark.parametrize(("path", "text", "slip", "said"), MUTANTS, ids=lambda part: part[:40])
def test_a_mutant_is_rejected(path: str, text: str, slip: str, said: str) -> None:
    """A template with one slip in it is rejected, and the complaint names the slip."""
    found = complaints(path, text, slip)

    assert any(said in complaint for complaint in found), found

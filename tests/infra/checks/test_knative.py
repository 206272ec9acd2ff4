"""Knative services and their images: each mistake is rejected."""

import pytest
from support.mutants import changed, complaints

from infra.limits import Limits

PLAIN = changed({"api_keys": False, "rollout.canary_percent": 0})
ASKED = changed({"api_keys": True, "rollout.canary_percent": 10})
PREDICT, HEALTH = "infra/knative/predict.yaml", "infra/knative/health.yaml"
IMAGE, SMALL = "infra/knative/predict.Dockerfile", "infra/knative/health.Dockerfile"
SLIPS = {
    "root": (PREDICT, "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot is False"),
    "a file system to write to": (
        HEALTH,
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "readOnlyRootFilesystem is False",
    ),
    "more rights than it started with": (
        PREDICT,
        "allowPrivilegeEscalation: false",
        "allowPrivilegeEscalation: true",
        "allowPrivilegeEscalation is True",
    ),
    "capabilities": (PREDICT, "drop: [ALL]", "add: [ALL]", "capabilities is"),
    "a token for Kubernetes": (
        PREDICT,
        "automountServiceAccountToken: false",
        "automountServiceAccountToken: true",
        "automountServiceAccountToken is True",
    ),
    "another memory": (
        PREDICT,
        "memory: <<predict.memory_mb>>Mi",
        "memory: <<predict.memory_mb * 2>>Mi",
        "memory is",
    ),
    "no limit of memory": (
        HEALTH,
        "limits:\n              memory: <<health.memory_mb>>Mi",
        "limits:\n              cpu: 1 #",
        "limits: memory is None",
    ),
    "less of a processor": (
        PREDICT,
        "cpu: <<millicpu(predict.cpu)>>",
        "cpu: <<millicpu(predict.cpu / 16)>>",
        "cpu is",
    ),
    "a probe that is none": (
        PREDICT,
        "readinessProbe",
        "readynessProbe",
        "'readynessProbe' was unexpected",
    ),
    "traffic that meets a cold model": (
        PREDICT,
        "path: /warmup/",
        "path: /health/",
        "readinessProbe: it asks",
    ),
    "a variable that is none": (HEALTH, "THREADS", "THREDS", "THREADS is None"),
    "more instances": (
        HEALTH,
        'max-scale: "<<health.max_instances>>"',
        'max-scale: "<<health.max_instances + 1>>"',
        "max-scale is",
    ),
    "no bound on instances": (
        PREDICT,
        'autoscaling.knative.dev/max-scale: "<<predict.max_instances>>"',
        "",
        "max-scale is None",
    ),
    "more at once": (
        PREDICT,
        "containerConcurrency: <<predict.concurrency>>",
        "containerConcurrency: <<predict.concurrency + 1>>",
        "containerConcurrency is",
    ),
    "a split that nobody asked for": (
        PREDICT,
        "spec:\n  template:",
        "spec:\n  traffic: [{latestRevision: true, percent: 100}]\n  template:",
        "traffic is",
    ),
    "an image of another base": (IMAGE, "<<python>>-slim", "<<python>>-alpine", "FROM is"),
    "an image of another machine": (
        SMALL,
        "--platform=linux/<<oci_machine>>",
        "--platform=linux/riscv64",
        "FROM is",
    ),
    "a machine that nobody has": (
        PREDICT,
        "      containers:\n",
        "      nodeSelector: {kubernetes.io/arch: riscv64}\n      containers:\n",
        "nodeSelector is",
    ),
    "an image that is root": (IMAGE, "USER 10001", "USER root", "USER is 'root'"),
    "an image without our settings": (
        SMALL,
        '"infra.serve"',
        '"gunicorn"',
        "does not run",
    ),
}
ASKED_SLIPS = {
    "a canary of another share": (
        PREDICT,
        "percent: <<rollout.canary_percent>>\n",
        "percent: <<rollout.canary_percent + 1>>\n",
        "traffic is",
    ),
    "all to the revision before": (
        HEALTH,
        "percent: <<100 - rollout.canary_percent>>",
        "percent: 100",
        "traffic is",
    ),
    "a canary without a name": (PREDICT, "      tag: candidate", "     #", "traffic is"),
    "keys of another secret": (
        PREDICT,
        "secretName: <<name>>-keys",
        "secretName: k",
        "the secrets",
    ),
    "keys in the manifest": (
        PREDICT,
        "value: /etc/secrets/keys",
        "value: ping:0123",
        "API_KEYS is",
    ),
    "keys that are not mounted": (PREDICT, "name: keys # the", "name: key # the", "the keys are"),
    "a key in the manifest": (
        PREDICT,
        "path: /health/ #",
        "httpHeaders: [{name: X-API-Key, value: mk_x}]\n              path: /warmup/ #",
        "readinessProbe: it asks",
    ),
}


@pytest.mark.parametrize(
    ("path", "text", "slip", "expected", "table"),
    [(*slip, PLAIN) for slip in SLIPS.values()] + [(*slip, ASKED) for slip in ASKED_SLIPS.values()],
    ids=[*SLIPS, *ASKED_SLIPS],
)
def test_a_mutant_is_rejected(
    path: str, text: str, slip: str, expected: str, table: Limits
) -> None:
    """A template with one mistake is rejected, and the complaint names it."""
    found = complaints(path, text, slip, table)

    assert any(expected in complaint for complaint in found), found

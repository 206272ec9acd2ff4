"""Knative services and their images."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from infra import platforms
from infra.checks.given import (
    dicts,
    differ,
    instructions,
    keys,
    probes,
    processors,
    scale,
    schema,
    service,
    traffic,
)
from infra.limits import Limits


def pod(text: str, table: Limits) -> Iterator[str]:
    """Check a Knative service: Cloud Run's schema, and a pod with least privileges."""
    document = yaml.safe_load(text)
    function, spec, container = service(document, table)
    security = container.pop("securityContext", {})
    security["automountServiceAccountToken"] = spec.pop("automountServiceAccountToken", None)
    yield from schema(document, "run-service")
    wanted = {
        "automountServiceAccountToken": False,
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    yield from differ("securityContext", security, wanted)
    resources = container.get("resources", {})
    memory = f"{function.memory_mb}Mi"
    for kind in ("requests", "limits"):
        yield from differ(kind, resources.get(kind, {}), {"memory": memory})
    asked = processors(resources.get("requests", {}).get("cpu"))
    yield from differ(
        "spec",
        {**spec, "cpu": asked},
        {
            "cpu": function.cpu,
            "containerConcurrency": function.concurrency,
            "timeoutSeconds": function.timeout_s,
        },
    )
    # a cluster accepts a nodeSelector only with a feature flag, which few have
    machine = platforms.OCI[table.architecture]
    wanted_nodes = {} if machine == "amd64" else {"kubernetes.io/arch": machine}
    if spec.get("nodeSelector", {}) != wanted_nodes:
        yield f"nodeSelector is {spec.get('nodeSelector')}, not {wanted_nodes or None}"
    given = {item.get("name"): item.get("value") for item in dicts(container, "env")}
    yield from differ("env", given, function.variables())
    yield from keys(spec, container, function, table)
    yield from scale(document, function, "max-scale")
    yield from traffic(document, table)
    yield from probes(container, "readinessProbe", "livenessProbe")
    warm = function.name == "predict" and not table.api_keys  # /warmup/ needs a key
    ready = container.get("readinessProbe", {}).get("httpGet", {})
    if ready != {"path": "/warmup/" if warm else "/health/"}:
        yield f"readinessProbe: it asks {ready}"


def image(text: str, table: Limits) -> Iterator[str]:
    """Check a Dockerfile: the table's Python, and an unprivileged user."""
    given = dict(instructions(text))
    machine = platforms.OCI[table.architecture]
    image = f"--platform=linux/{machine} python:{table.python}-slim"
    wanted = {"FROM": image, "USER": "10001", "COPY": ". ."}
    yield from differ("Dockerfile", given, wanted)
    if '"infra.serve"' not in given.get("CMD", ""):
        yield f"Dockerfile: CMD is {given.get('CMD')}; it does not run infra.serve"

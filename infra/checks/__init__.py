"""Checks of the templates: their schema, the platform's rules, and the table of limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from infra.checks import alarms, aws, docker, google, knative, nginx, render, systemd, terraform
from infra.limits import Limits

CHECKS: dict[str, Callable[[str, Limits], Iterator[str]]] = {
    "render.yaml": render.blueprint,
    "infra/render/queue.yaml": render.blueprint,
    "infra/render/warmup.yml": render.ping,
    "infra/gcp/predict.yaml": google.cloud_run,
    "infra/gcp/health.yaml": google.cloud_run,
    "infra/gcp/main.tf": terraform.functions,
    "infra/gcp/alarms/main.tf": alarms.policies,
    "infra/gcp/python-version": google.version,
    "infra/aws/template.yaml": aws.template,
    "infra/knative/predict.yaml": knative.pod,
    "infra/knative/health.yaml": knative.pod,
    "infra/knative/predict.Dockerfile": knative.image,
    "infra/knative/health.Dockerfile": knative.image,
    "Dockerfile": docker.image,
    "compose.yaml": docker.compose,
    "infra/systemd/macule.service": systemd.service,
    "infra/systemd/macule.socket": systemd.socket,
    "infra/systemd/macule-worker@.service": systemd.service,
    "infra/systemd/keys.conf": systemd.keys,
    "infra/nginx/macule.conf": nginx.proxy,
}

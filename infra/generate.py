"""Write the templates of all platforms from limits.toml; --check reports differences."""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from infra import limits, platforms

INFRA = Path(__file__).resolve().parent
ROOT = INFRA.parent
# Place of each template, and its function; Render looks for its blueprint at the root.
OUTPUTS = {
    "render.yaml": ("render.yaml", "predict"),
    "infra/render/queue.yaml": ("render/queue.yaml", "predict"),
    "infra/render/warmup.yml": ("render/warmup.yml", "predict"),
    "infra/gcp/predict.yaml": ("gcp/service.yaml", "predict"),
    "infra/gcp/health.yaml": ("gcp/service.yaml", "health"),
    "infra/gcp/main.tf": ("gcp/main.tf", "predict"),
    "infra/gcp/alarms/main.tf": ("gcp/alarms.tf", "predict"),
    "infra/gcp/python-version": ("gcp/python-version", "predict"),
    "infra/aws/template.yaml": ("aws/template.yaml", "predict"),
    "infra/knative/predict.yaml": ("knative/service.yaml", "predict"),
    "infra/knative/health.yaml": ("knative/service.yaml", "health"),
    "infra/knative/predict.Dockerfile": ("knative/Dockerfile", "predict"),
    "infra/knative/health.Dockerfile": ("knative/Dockerfile", "health"),
    "Dockerfile": ("Dockerfile", "predict"),
    "compose.yaml": ("compose.yaml", "predict"),
    "infra/systemd/macule.service": ("systemd/macule.service", "predict"),
    "infra/systemd/macule.socket": ("systemd/macule.socket", "predict"),
    "infra/systemd/macule-worker@.service": ("systemd/worker.service", "predict"),
    "infra/systemd/keys.conf": ("systemd/keys.conf", "predict"),
    "infra/nginx/macule.conf": ("nginx/macule.conf", "predict"),
}


@cache
def environment() -> Environment:
    """Return the template language: <<value>> and <% step %>.

    Braces have a meaning in CloudFormation, Terraform and GitHub. No HTML is generated here.
    """
    return Environment(  # noqa: S701
        loader=FileSystemLoader(INFRA / "templates"),
        undefined=StrictUndefined,
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        keep_trailing_newline=True,
    )


def values(table: limits.Limits) -> dict[str, Any]:
    """Return the names that a template may use: the table's keys, and values derived from them.

    Raises: ValueError if a platform does not accept a value.
    """
    platforms.check(table)
    least_s, most_s = platforms.SCHEDULER_S
    plan = platforms.render_plan(table.predict.memory_mb)
    return {
        **table._asdict(),
        "python_minor": table.python_minor,
        "functions": (table.predict, table.health),
        "plan": plan,
        "paid": "starter" if plan == "free" else plan,
        "oci_machine": platforms.OCI[table.architecture],
        "stop_s": platforms.RENDER_STOP_S,
        "warmup_cron": table.warmup_cron,
        "warmup_wait_s": min(max(table.predict.timeout_s, least_s), most_s),
        "image_bytes": platforms.LAMBDA_IMAGE_BYTES,
        "cloud_run_bytes": platforms.CLOUD_RUN_IMAGE_BYTES,
        "millicpu": lambda cpu: f"{round(cpu * 1000)}m",
    }


def outputs(table: limits.Limits) -> dict[str, str]:
    """Return every file's text by its path from the root."""
    templates, shared = environment(), values(table)
    return {
        path: templates.get_template(template).render(
            shared, function=getattr(table, function), template=f"infra/templates/{template}"
        )
        for path, (template, function) in OUTPUTS.items()
    }


def drift(root: Path = ROOT) -> list[str]:
    """Name the files that differ from the generated ones."""
    return [
        path
        for path, text in outputs(limits.read(str(root / "infra/limits.toml"))).items()
        if not (root / path).is_file() or (root / path).read_text() != text
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on drift")
    options = parser.parse_args()
    try:
        drifted = drift()
        for path, text in outputs(limits.read()).items():
            if not options.check:
                (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
                (ROOT / path).write_text(text)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for path in drifted:
        print(f"{path}: {'has drifted; run make infra' if options.check else 'written'}")
    return 1 if options.check and drifted else 0


if __name__ == "__main__":
    sys.exit(main())

"""The costs in the documentation follow from the limits that it names."""

import re

from support.service import ROOT

from infra import costs, limits

PREDICT = limits.read().predict._replace(memory_mb=512, cpu=1.0)
TIMES = costs.Times(cpu_s=0.04, lambda_s=0.2)


def test_the_documentation_shows_the_computed_table() -> None:
    """docs/deploy.md has what `python -m infra.costs` prints for the limits in the table's head."""
    text = (ROOT / "docs/deploy.md").read_text()
    ((cpu, memory_mb),) = re.findall(r"functions, ([\d.]+) processor \| Lambda, (\d+) MB", text)
    named = PREDICT._replace(cpu=float(cpu), memory_mb=int(memory_mb))

    assert "\n".join(costs.lines(named)) in text


def test_a_bill_equals_a_manual_calculation() -> None:
    """Ten requests a second for a month cost what each cloud's own arithmetic gives."""
    requests = 10 * 365.25 / 12 * 86400  # 26.298 million
    paid_gb_s = requests * 0.2 * 0.5 - 400_000
    aws = paid_gb_s * 0.0000166667 + (requests / 1e6 - 1) * 0.20
    seconds = requests / 10  # ten of 0.1 s fill a second
    google = (seconds - 180_000) * 0.000024 + (seconds / 2 - 360_000) * 0.0000025
    google += (requests / 1e6 - 2) * 0.40

    assert costs.aws(10, TIMES, PREDICT) == f"${aws:,.0f}"
    assert costs.cloud_run(10, TIMES, PREDICT) == f"${google:,.0f}"
    assert costs.render(10, TIMES, PREDICT) == "$14 (2 starter)"


def test_an_idle_service_costs_nothing() -> None:
    """Without requests nothing is billed."""
    assert costs.aws(0, TIMES, PREDICT) == costs.cloud_run(0, TIMES, PREDICT) == "$0"
    assert costs.render(0, TIMES, PREDICT) == "$0 (1 free)"

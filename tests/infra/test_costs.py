"""The costs that the documentation shows are those of the table of limits."""

from service import ROOT

from infra import costs, limits

TIMES = costs.Times(cpu_s=0.04, lambda_s=0.2)


def test_the_documentation_shows_the_computed_table() -> None:
    """docs/deploy.md has the table that `python -m infra.costs` prints, to the letter."""
    table = "\n".join(costs.lines(limits.read()))

    assert table in (ROOT / "docs/deploy.md").read_text()


def test_a_bill_worked_out_by_hand() -> None:
    """Ten requests a second for a month, by each cloud's own arithmetic."""
    predict = limits.read().predict._replace(memory_mb=512, cpu=1.0)
    requests = 10 * 365.25 / 12 * 86400  # 26.298 million
    paid_gb_s = requests * 0.2 * 0.5 - 400_000
    aws = paid_gb_s * 0.0000166667 + (requests / 1e6 - 1) * 0.20
    seconds = requests / 10  # ten of 0.1 s fill a second
    google = (seconds - 180_000) * 0.000024 + (seconds / 2 - 360_000) * 0.0000025
    google += (requests / 1e6 - 2) * 0.40

    assert costs.aws(10, TIMES, predict) == f"${aws:,.0f}"
    assert costs.cloud_run(10, TIMES, predict) == f"${google:,.0f}"
    assert costs.render(10, TIMES) == "$14 (2 starter)"


def test_rest_costs_nothing() -> None:
    """Without requests nothing is billed."""
    predict = limits.read().predict

    assert costs.aws(0, TIMES, predict) == costs.cloud_run(0, TIMES, predict) == "$0"
    assert costs.render(0, TIMES) == "$0 (1 free)"

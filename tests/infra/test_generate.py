"""Every template is generated from the one table, and a changed limit reaches all of them."""

import shutil
import subprocess
import sys
from pathlib import Path

from support.mutants import changed
from support.service import ROOT

from infra import generate, platforms


def test_committed_templates_are_current() -> None:
    """The committed templates equal the generated ones."""
    assert generate.drift() == []


def test_a_changed_limit_reaches_every_platform() -> None:
    """Another memory limit of predict changes only that figure in each cloud's template."""
    small, large = (
        changed({"predict.memory_mb": memory_mb, "predict.cpu": 1}) for memory_mb in (640, 4096)
    )
    before, after = generate.outputs(small), generate.outputs(large)

    assert {path for path in before if before[path] != after[path]} == {
        "render.yaml",
        "infra/render/queue.yaml",
        "infra/gcp/predict.yaml",
        "infra/gcp/main.tf",
        "infra/aws/template.yaml",
        "infra/knative/predict.yaml",
        "infra/systemd/macule.service",
        "infra/systemd/macule-worker@.service",
        "compose.yaml",
    }
    assert f"plan: {platforms.render_plan(4096)} " in after["render.yaml"]
    assert "MemorySize: 4096" in after["infra/aws/template.yaml"]


def test_a_manual_edit_fails_the_check(tmp_path: Path) -> None:
    """`--check` exits with 1 and names a template that was edited by hand."""
    shutil.copytree(ROOT / "infra", tmp_path / "infra")
    for name in ("render.yaml", "Dockerfile", "compose.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    template = tmp_path / "infra/aws/template.yaml"
    template.write_text(template.read_text().replace("MemorySize: ", "MemorySize: 1"))
    check = [sys.executable, "-m", "infra.generate", "--check"]
    run = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run.returncode == 1
    assert run.stdout == "infra/aws/template.yaml: has drifted; run make infra\n"

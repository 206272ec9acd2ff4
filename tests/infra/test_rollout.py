"""The documented commands fill in the templates for a first deployment and for a canary."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.mutants import changed
from support.service import ROOT

from infra import generate

SEDS = re.findall(r'^sed "(.+)" (infra/\S+\.yaml)', (ROOT / "docs/deploy.md").read_text(), re.M)
GIVEN = {"IMAGE": "registry.example/macule:1a2b", "PROJECT": "my-1", "PREVIOUS": "macule-1"}
FILLED = re.compile(r"\b(IMAGE|PROJECT|PREVIOUS)\b")


def filled(script: str, path: str, folder: Path, percent: int) -> Any:
    """Run the documented sed command on a template with a canary of *percent*."""
    table = changed({"rollout.canary_percent": percent})
    file = folder / "service.yaml"
    file.write_text(generate.outputs(table)[path])
    command = ["bash", "-c", f'sed "{script}" {file}']
    done = subprocess.run(
        command, env={**os.environ, **GIVEN}, check=True, capture_output=True, text=True
    )
    plain = re.sub(r"#.*", "", done.stdout)
    assert not FILLED.search(plain), plain
    return yaml.safe_load(done.stdout)


def test_there_are_commands_for_both() -> None:
    """Cloud Run services and Knative each have a first deployment and a canary."""
    assert sorted((path, "PREVIOUS" in script) for script, path in SEDS) == [
        ("infra/gcp/predict.yaml", False),
        ("infra/gcp/predict.yaml", True),
        ("infra/knative/predict.yaml", False),
        ("infra/knative/predict.yaml", True),
    ]


@pytest.mark.parametrize(("script", "path"), [sed for sed in SEDS if "PREVIOUS" not in sed[0]])
@pytest.mark.parametrize("percent", [0, 10])
def test_a_first_deployment_splits_nothing(
    script: str, path: str, percent: int, tmp_path: Path
) -> None:
    """With any canary in the table, all traffic goes to the only revision."""
    document = filled(script, path, tmp_path, percent)

    assert document["spec"]["template"]["spec"]["containers"][0]["image"] == GIVEN["IMAGE"]
    assert "traffic" not in document["spec"]


@pytest.mark.parametrize(("script", "path"), [sed for sed in SEDS if "PREVIOUS" in sed[0]])
def test_a_canary_gets_its_share(script: str, path: str, tmp_path: Path) -> None:
    """The new revision gets the table's share and the previous one the rest of 100."""
    document = filled(script, path, tmp_path, 10)

    assert [(to.get("revisionName"), to["percent"]) for to in document["spec"]["traffic"]] == [
        (GIVEN["PREVIOUS"], 90),
        (None, 10),
    ]

"""Linters of other languages find nothing; each detects a mistake that no other check does."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from support.service import ROOT

from infra import checks, limits, sam

BIN = ROOT / ".venv-lint/bin"
YAML = "{extends: default, rules: {document-start: disable, truthy: {check-keys: false}, \
line-length: {max: 140}, comments: {min-spaces-from-content: 1}, braces: disable}}"
# checkov's checks that are not followed, and why.
EXCEPTIONS = {
    "CKV_AWS_116": "requests are answered or fail; a dead-letter queue would stay empty",
    "CKV_AWS_117": "no network of yours is reached",
    "CKV_AWS_158": "logs hold no image, name or result; AWS encrypts them with a key of its own",
    "CKV_AWS_173": "AWS encrypts variables with a key of its own; one of yours costs",
    "CKV_DOCKER_2": "Kubernetes does not read HEALTHCHECK; the pod has probes",
    "CKV_GCP_62": "the bucket holds a public repository's source",
    "CKV_GCP_78": "each object is named by its hash, so none is written twice",
    "CKV_GCP_124": "the function is on the internet; IAM closes it",
    "CKV_K8S_11": "without a CPU limit a start may take what is free",
    "CKV_K8S_15": "the image's tag is a commit, so one that is there is the right one",
    "CKV_K8S_29": "Knative takes no security context of a pod; that of the container has all of it",
    "CKV_K8S_43": "the operator pushes the image and names it by its commit",
    "CKV2_K8S_6": "who may reach a pod is the cluster's to say",
}


class Linter(NamedTuple):
    """The command of a linter, its files, and a mistake that it rejects."""

    command: str
    files: Callable[[], list[str]]
    path: str
    text: str
    slip: str
    expected: str


def tracked(*patterns: str) -> list[str]:
    listed = ["git", "ls-files", "--", *patterns]
    return subprocess.run(
        listed, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()


def scripts() -> list[str]:
    first = {path: (ROOT / path).read_bytes()[:40].partition(b"\n")[0] for path in tracked()}
    return [path for path, line in first.items() if line[:2] == b"#!" and line.endswith(b"sh")]


LINTERS = {
    "yamllint": Linter(
        f"yamllint --strict -d '{YAML}'",
        lambda: tracked("*.yaml", "*.yml", ":!infra/templates"),
        "infra/gcp/predict.yaml",
        "      timeoutSeconds:",
        "      timeoutSeconds: 1\n      timeoutSeconds:",
        "duplication of key",
    ),
    "hadolint": Linter(
        "hadolint --ignore DL3029",  # --platform: the bundle's libraries are for one architecture
        lambda: tracked("*.Dockerfile", "Dockerfile"),
        "infra/knative/predict.Dockerfile",
        "WORKDIR /srv\n",
        "WORKDIR /srv\nRUN apt-get install curl\n",
        "DL3008",
    ),
    "actionlint": Linter(
        f"actionlint -no-color -shellcheck {BIN}/shellcheck",
        lambda: [*tracked(".github/workflows"), "infra/render/warmup.yml"],
        "infra/render/warmup.yml",
        "secrets.MACULE_KEY",
        "secret.MACULE_KEY",
        'undefined variable "secret"',
    ),
    "actionlint with shellcheck": Linter(
        f"actionlint -no-color -shellcheck {BIN}/shellcheck",
        lambda: [*tracked(".github/workflows"), "infra/render/warmup.yml"],
        "infra/render/warmup.yml",
        '"$MACULE_URL/warmup/"',
        "$MACULE_URL/warmup/",
        "SC2086",
    ),
    "shellcheck": Linter(
        "shellcheck", scripts, ".ci/run", '"${missing[@]}"', "${missing[@]}", "SC2068"
    ),
    "kubernetes-validate": Linter(
        "kubernetes-validate --strict",
        lambda: tracked("infra/knative/*.yaml"),
        "infra/knative/predict.yaml",
        "runAsUser: 10001",
        'runAsUser: "10001"',
        "'10001' is not of type 'integer'",
    ),
    "kubernetes-validate, of names": Linter(
        "kubernetes-validate --strict",
        lambda: tracked("infra/knative/*.yaml"),
        "infra/knative/health.yaml",
        "seccompProfile:",
        "seccomp:",
        "'seccomp' was unexpected",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if not (BIN.parent / "ready").exists():
        why = "the linters are not installed: make .venv-lint/ready"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)


def pod(text: str) -> dict[str, Any]:
    """Return the Pod that Knative makes of a service."""
    document = yaml.safe_load(text.replace("image: IMAGE", "image: registry.example/macule:1a2b"))
    spec = document["spec"]["template"]["spec"]
    del spec["containerConcurrency"], spec["timeoutSeconds"]
    container = spec["containers"][0]
    container["name"] = "user-container"
    for probe in ("readinessProbe", "livenessProbe"):
        container[probe]["httpGet"].setdefault("port", container["ports"][0]["containerPort"])
    meta = {"name": document["metadata"]["name"], "namespace": "macule"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def read(path: str, text: str) -> str:
    """Return a file in the form that its linter reads."""
    return yaml.safe_dump(pod(text)) if path.startswith("infra/knative/") else text


def run(linter: Linter, folder: Path, texts: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a linter on copies of files, in one process."""
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    command = [*shlex.split(f"{BIN}/{linter.command}"), *texts]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


# One name for each command.
ONCE = {linter.command: name for name, linter in LINTERS.items()}


@pytest.mark.parametrize("name", ONCE.values())
def test_a_linter_finds_nothing(name: str, tmp_path: Path) -> None:
    """The linter accepts all files of its kind, and there are some."""
    linter = LINTERS[name]
    kubernetes = name.startswith("kubernetes")
    texts = {path: (ROOT / path).read_text() for path in linter.files()}
    done = run(linter, tmp_path, {k: read(k, v) if kubernetes else v for k, v in texts.items()})

    assert linter.path in texts
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", LINTERS)
def test_only_the_linter_detects_a_mistake(name: str, tmp_path: Path) -> None:
    """The linter names the mistake; the checks of the templates do not see it."""
    linter = LINTERS[name]
    whole = (ROOT / linter.path).read_text()
    slipped = whole.replace(linter.text, linter.slip, 1)
    kubernetes = name.startswith("kubernetes")
    text = read(linter.path, slipped) if kubernetes else slipped
    done = run(linter, tmp_path, {linter.path: text})

    assert slipped != whole
    assert done.returncode != 0
    assert linter.expected in done.stdout + done.stderr
    if linter.path in checks.CHECKS:
        assert list(checks.CHECKS[linter.path](slipped, limits.read())) == []


SECRET = "AKIA" + "IOSFODNN7EXAMPLE"  # from AWS's own documentation
# What checkov reads, and a mistake in it that checkov rejects.
CHECKOV = {
    "infra/gcp/main.tf": (
        "uniform_bucket_level_access = true",
        "uniform_bucket_level_access = false",
        "CKV_GCP_29",
    ),
    "infra/knative/predict.yaml": (
        "            seccompProfile:\n              type: RuntimeDefault\n",
        "",
        "CKV_K8S_31",
    ),
    "infra/knative/predict.Dockerfile": (
        "WORKDIR /srv\n",
        "WORKDIR /srv\nRUN apt-get update\n",
        "CKV_DOCKER_5",
    ),
    "infra/aws/template.yaml": ("        Variables:\n", None, "CKV_AWS_45"),
    ".github/workflows/ci.yml": (
        "permissions:\n  contents: read\n",
        "permissions: write-all\n",
        "CKV2_GHA_1",
    ),
}
PLAIN = ("infra/gcp/alarms/main.tf", "infra/knative/health.yaml", "infra/knative/health.Dockerfile")


def as_platform_reads(path: str, text: str) -> str:
    """Return a file as its platform reads it: SAM transformed, Knative's pod."""
    if path == "infra/aws/template.yaml":
        return json.dumps(sam.transform(sam.load(text)))
    return read(path, text) if path.endswith("yaml") else text


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return checkov's findings by file; it runs once, because it takes seconds."""
    root = tmp_path_factory.mktemp("checkov")
    for path in (*CHECKOV, *PLAIN):
        text = (ROOT / path).read_text()
        old, new, _ = CHECKOV.get(path, ("", "", ""))
        slip = f"{old}          LEFT_HERE: {SECRET}\n" if new is None else new
        for kind, text_of_kind in (("good", text), ("slip", text.replace(old, slip, 1))):
            # a suffix that tells checkov the file type, and workflows where it looks for them
            target = root / (f"{kind}/{path}" if "github" not in path else f"{path}.{kind}.yml")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(as_platform_reads(path, text_of_kind))
    command = [str(BIN / "checkov"), "--directory", ".", "--skip-download", "--output", "json"]
    command += ["--compact", "--quiet", "--framework", "terraform", "kubernetes", "dockerfile"]
    command += ["github_actions", "cloudformation"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    failed: dict[str, set[str]] = {}
    for report in json.loads(done.stdout):
        assert report["summary"]["parsing_errors"] == 0, report["summary"]
        for check in report["results"]["failed_checks"]:
            failed.setdefault(check["file_path"].lstrip("/"), set()).add(check["check_id"])
    return failed


def checks_of(found: dict[str, set[str]], kind: str, path: str = "") -> set[str]:
    return {
        check
        for file, checks in found.items()
        for check in checks
        if (file.startswith(kind) or f".{kind}.yml" in file) and path in file
    }


@pytest.mark.slow
def test_checkov_finds_only_the_exceptions(found: dict[str, set[str]]) -> None:
    """Each finding of checkov has a reason, and no reason is unused."""
    assert checks_of(found, "good") == set(EXCEPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("path", CHECKOV)
def test_checkov_detects_a_mistake(found: dict[str, set[str]], path: str) -> None:
    """It detects a mistake in each language."""
    assert CHECKOV[path][2] in checks_of(found, "slip", path)


def test_terraform_is_formatted() -> None:
    """`terraform fmt` changes nothing; it runs only where Terraform is installed."""
    terraform = shutil.which("terraform")
    if not terraform:
        pytest.skip("terraform is not on this machine")
    command = [terraform, "fmt", "-check", "-diff", "-recursive", "infra/gcp"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr

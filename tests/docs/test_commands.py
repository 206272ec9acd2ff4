"""The commands that the documentation prints are runnable as printed, and their names exist.

Some are run: README's in test_readme.py, those of *Your own machine* and *Workers* in
infra/test_systemd.py and test_nginx.py, the web application's in examples/test_web_app.py, the
bundles' in infra/test_bundle.py. The clouds' own programs are not: their names are read here.
"""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise

import pytest
import yaml
from macule.cli import main
from support.doc_commands import PAGES, blocks
from support.service import ROOT, needs_tensorflow

from infra import bundle

# Present on every Linux, or installed by the section "You need"; not run here.
CLOUD = {"aws", "docker", "gcloud", "gh", "kubectl", "sam", "terraform"}
SYSTEM = {"cp", "curl", "echo", "export", "git", "install", "mkdir", "nginx", "python3"}
SYSTEM |= {"pip", "rm", "sed", "systemctl"}
OURS = ("bench", "docs", "examples", "functions", "infra", "layers", "requirements")
INNER = re.compile(r"\$\(((?:[^()]|\([^()]*\))*)\)")
MAKEFILE = (ROOT / "Makefile").read_text()
SAM = (ROOT / "infra/aws/template.yaml").read_text()
ALL = [block for page in PAGES for block in blocks(page)]
DEPLOY = [block for block in ALL if block.page == "docs/deploy.md"]


def words(text: str) -> Iterator[list[str]]:
    """Yield the words of each simple command; the content of `$(...)` is a command of its own."""
    text = text.replace("\\\n", " ")
    for inner in INNER.findall(text):
        yield from words(inner)
    for line in INNER.sub("$OUTPUT", text).splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        reader.whitespace_split = True
        command: list[str] = []
        for word in [*reader, ";"]:
            if set(word) <= set("<>"):
                command.append(">")  # the next word is a file
            elif not set(word) <= set("|&;"):
                command.append(word)
            elif command:
                yield command
                command = []


def program(command: list[str]) -> list[str]:
    """Remove the variables that are set for a command."""
    rest = list(command)
    while rest and re.fullmatch(r"[A-Z_]+=.*", rest[0]):
        rest.pop(0)
    return rest


COMMANDS = [
    (block, rest) for block in ALL for command in words(block.text) if (rest := program(command))
]


def called(name: str) -> list[list[str]]:
    return [rest for _, rest in COMMANDS if rest[0] == name]


def test_commands_are_found() -> None:
    """The pages contain commands, and among them are macule's and each cloud's own."""
    assert {rest[0] for _, rest in COMMANDS} >= {*CLOUD, "make", "curl", ".venv/bin/macule"}
    assert len(COMMANDS) > 100


@pytest.mark.parametrize("page", sorted({block.page for block in ALL}))
def test_every_program_exists_where_it_is_called(page: str) -> None:
    """A command begins with a program of the system, of a cloud, or one that make installs."""
    for block, (name, *_) in COMMANDS:
        if block.page != page or name in SYSTEM | CLOUD | {"make"} or name.startswith("build/"):
            continue
        if name.startswith("v/bin/") and "python3 -m venv v\n" in block.text:
            continue
        assert name.startswith((".venv/bin/", ".venv-dev/bin/", "examples/")), (block, name)
        assert (ROOT / name).exists(), (block, name)


def test_every_make_target_exists() -> None:
    """`make X` names a target of the Makefile."""
    for rest in called("make"):
        for target in (word for word in rest[1:] if "=" not in word):
            assert re.search(rf"^{re.escape(target)}\b.*:", MAKEFILE, re.MULTILINE), target


def test_every_module_exists() -> None:
    """`python -m X` names a module of this project or of the standard library."""
    found = [rest[2] for _, rest in COMMANDS if rest[0].endswith("python") and rest[1] == "-m"]
    for name in found:
        assert importlib.util.find_spec(name), name


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            rest[1:],
            marks=needs_tensorflow if rest[1] in ("convert", "check", "evaluate") else (),
            id=" ".join(rest[1:]),
        )
        for _, rest in COMMANDS
        if rest[0].endswith("bin/macule")
    ],
)
def test_macules_options_exist(arguments: list[str]) -> None:
    """macule's own parser accepts every line that calls it."""
    arguments = [re.sub(r"^\$\{?URL\}?$", "https://macule.example", word) for word in arguments]

    assert main.parser(arguments).parse_args(arguments).run


def test_every_file_exists() -> None:
    """A path in the repository exists; a path below build/ is built or explained."""
    made = {
        place
        for block in ALL
        for place in re.findall(r"> (build/\S+)|venv (build/\S+)", block.text)
    }
    explained = re.findall(
        r"`(build/\w+\.txt)`", "".join((ROOT / page).read_text() for page in PAGES)
    )
    known = (
        {*explained}
        | {name for pair in made for name in pair if name}
        | {f"build/{name}" for name in bundle.TREES}
    )
    for block, rest in COMMANDS:
        for word in rest:
            path = re.sub(r"^[^/]*[=@]", "", word).split("[")[0]
            if path.split("/")[0] in OURS and "/" in path:
                assert (ROOT / path).exists() or path.endswith("terraform.tfstate"), (block, path)
            if path.startswith("build/"):
                assert any(path == name or path.startswith(f"{name}/") for name in known), path


def test_terraform_names_match_the_templates() -> None:
    """Each `-var` is a variable of main.tf, and no required variable or output is missing."""
    for rest in called("terraform"):
        text = (ROOT / rest[1].removeprefix("-chdir=") / "main.tf").read_text()
        variables = set(re.findall(r'^variable "(\w+)"', text, re.MULTILINE))
        required = set(re.findall(r'^variable "(\w+)" \{ type = \w+ \}', text, re.MULTILINE))
        given = {value.split("=")[0] for flag, value in pairwise(rest) if flag == "-var"}

        assert given <= variables
        assert rest[2] not in ("apply", "destroy") or required <= given
        assert rest[2] != "output" or f'output "{rest[-1]}"' in text
    named = {
        name
        for page in ("docs/deploy.md", "docs/operate.md")
        for name in re.findall(r"-var (\w+)=", (ROOT / page).read_text())
    }
    modules = "".join(path.read_text() for path in (ROOT / "infra/gcp").rglob("*.tf"))
    assert named <= set(re.findall(r'^variable "(\w+)"', modules, re.MULTILINE))


def test_sam_names_match_the_template() -> None:
    """Parameters, outputs and functions named for AWS are those of template.yaml."""
    names = yaml.load(SAM, Loader=_Plain)  # noqa: S506
    text = "".join(block.text for block in DEPLOY)
    pages = "".join((ROOT / page).read_text() for page in ("docs/deploy.md", "docs/operate.md"))
    functions = {
        resource["Properties"]["FunctionName"]
        for resource in names["Resources"].values()
        if resource["Type"] == "AWS::Serverless::Function"
    }

    assert set(re.findall(r"\b((?:[A-Z][a-z]+){2,})=(?!=)", pages)) <= set(names["Parameters"])
    assert set(re.findall(r"OutputKey=='(\w+)'", text)) <= set(names["Outputs"])
    assert set(re.findall(r"--function-name (\S+)", text)) <= functions
    assert set(re.findall(r"--name (\S+)", text)) == {
        names["Resources"]["Predict"]["Properties"]["AutoPublishAlias"]
    }


def test_service_names_match_the_templates() -> None:
    """Services of Cloud Run and Knative, and systemd units, have the names of the templates."""
    text = "".join(block.text for block in ALL)
    names = {
        yaml.safe_load((ROOT / f"infra/{folder}/{name}.yaml").read_text())["metadata"]["name"]
        for folder in ("gcp", "knative")
        for name in ("predict", "health")
    }
    units = {path.name for path in (ROOT / "infra/systemd").iterdir()}

    assert set(re.findall(r"(?:ksvc[/ ]|services \w+ |--service )(macule-\w+)", text)) <= names
    for rest in called("systemctl"):
        for unit in (word for word in rest[2:] if word.startswith("macule")):
            suffixed = unit if "." in unit else f"{unit}.service"
            assert re.sub(r"@\d+", "@", suffixed) in units, unit


def test_variables_are_set_before_use() -> None:
    """A `$NAME` in a section is set by an earlier command of that section."""
    for page, section in {(block.page, block.section) for block in DEPLOY}:
        known: set[str] = {"MAINPID"}
        for block in DEPLOY:
            if (block.page, block.section) == (page, section):
                for line in block.text.splitlines():
                    used = set(re.findall(r"\$\{?([A-Z_]+)", line))
                    known |= set(re.findall(r"\b([A-Z_]+)=", line))
                    assert used <= known, (section, line)


class _Plain(yaml.SafeLoader):
    """Reads CloudFormation's tags as their content."""


_Plain.add_multi_constructor("!", lambda _loader, _suffix, node: node.value)


def test_each_mistake_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing option, file, target and program are each detected."""
    slips = {
        test_every_make_target_exists: "make bundel",
        test_every_file_exists: "cp infra/systemd/macule.sokcet /etc",
        test_terraform_names_match_the_templates: "terraform -chdir=infra/gcp apply -var projekt=x",
        test_service_names_match_the_templates: "systemctl restart maculex",
    }
    for check, line in slips.items():
        monkeypatch.setitem(globals(), "COMMANDS", [(ALL[0], rest) for rest in words(line)])
        with pytest.raises(AssertionError):
            check()
    monkeypatch.setitem(globals(), "COMMANDS", [(ALL[0], ["macule", "serve"])])
    with pytest.raises(AssertionError):
        test_every_program_exists_where_it_is_called(ALL[0].page)
    with pytest.raises(SystemExit):
        test_macules_options_exist(["serve", "--prot", "80"])

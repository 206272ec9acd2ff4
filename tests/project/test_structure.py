"""The structure of the project: directions of imports, and complete documentation."""

import ast
import os
import re
import sys
from pathlib import Path
from subprocess import check_output, run  # `make check` runs this file although it starts these

import pytest
from macule import errors, settings
from macule.routes.openapi import specification
from macule.routes.openapi.operations import FUNCTIONS
from support.service import ROOT, needs_tensorflow

PACKAGE = ROOT / "layers/model/macule"
API = (ROOT / "docs/api.md").read_text()


def failures(kind: type[errors.Macule] = errors.Macule) -> list[type[errors.Macule]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in failures(child))]


def modules() -> dict[str, Path]:
    """Return the modules that serve, by dotted name without `macule`."""
    found = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in ("convert", "train")
    }
    del found["__init__"]
    return found


def test_rooms_import_only_rooms_below_them() -> None:
    """The contracts in pyproject.toml pass, and none of them lists an exception."""
    lint = Path(sys.executable).with_name("lint-imports")
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "layers/model")}
    done = run([lint, "--no-cache"], cwd=ROOT, env=environ, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
    assert "ignore_imports" not in (ROOT / "pyproject.toml").read_text()


def test_every_room_is_documented() -> None:
    """Each package has a docstring, and docs/architecture.md names each room."""
    packages = [path.parent for path in PACKAGE.rglob("__init__.py")]
    documented = (ROOT / "docs/architecture.md").read_text()
    rooms = {path.name for path in packages if path.parent == PACKAGE}
    silent = [
        p for p in packages if not ast.get_docstring(ast.parse((p / "__init__.py").read_text()))
    ]

    assert silent == []
    assert [room for room in sorted(rooms) if f"`{room}`" not in documented] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", "tests/README.md"])
def test_names_in_the_pages_exist(page: str) -> None:
    """Folders and modules that these pages name exist, in the package or the repository."""
    text = (ROOT / page).read_text()
    named = re.findall(r"`((?:[a-z_.]+/)+(?:\w+\.\w+)?)`", text)
    missing = [
        name
        for name in named
        if not (PACKAGE / name.removeprefix("macule/")).exists() and not (ROOT / name).exists()
    ]

    assert len(named) > 10
    assert missing == []


def test_the_diagram_is_current() -> None:
    """docs/architecture.md shows the present imports between rooms: `make architecture`."""
    done = run(
        [sys.executable, "-m", "infra.architecture", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "layers/model")},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr


def test_every_setting_is_documented() -> None:
    """docs/api.md has each variable that the settings read."""
    source = (PACKAGE / "settings/__init__.py").read_text()
    variables = set(re.findall(r'get\("(\w+)"|get\(\'(\w+)\'', source))
    names = {first or second for first, second in variables} | set(
        settings.PLATFORM_MEMORY_VARIABLES
    )

    assert len(names) >= 12
    assert [name for name in sorted(names) if f"`{name}`" not in API] == []


def test_only_settings_reads_the_environment() -> None:
    """No other module of the package reads a variable."""
    readers = [name for name, path in modules().items() if asks_environment(path)]

    assert readers == ["settings"]


def asks_environment(path: Path) -> bool:
    """Return whether a module's code uses `os.environ` or `os.getenv`, ignoring its texts."""
    code = ast.walk(ast.parse(path.read_text()))
    return any(
        re.match(r"os\.(environb?|getenv)\b", ast.unparse(node))
        or re.match(r"from os import .*(environ|getenv)", ast.unparse(node))
        for node in code
        if isinstance(node, ast.Attribute | ast.ImportFrom)
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_documented_routes_match_the_specification(function: str) -> None:
    """docs/api.md has the routes of each function's OpenAPI document, and no others."""
    rows = re.findall(r"^\| (`(?:GET|POST) /.*?) \| ([a-z, ]+) \|", API, re.MULTILINE)
    written = [
        route
        for routes, functions in rows
        if function in functions.split(", ")
        for route in re.findall(r"`(.*?)`", routes)
    ]

    assert sorted(written) == sorted(FUNCTIONS[function])


@pytest.mark.parametrize("function", ["predict", "health"])
def test_public_and_unmetered_routes_exist(function: str) -> None:
    """PUBLIC_ROUTES and UNMETERED_ROUTES of both functions name existing routes."""
    source = (PACKAGE / f"functions/{function}.py").read_text()
    named = re.findall(
        r"^(?:PUBLIC_ROUTES|UNMETERED_ROUTES) = \{(.*?)\}(?:  #.*)?$",
        source,
        re.MULTILINE | re.DOTALL,
    )
    exempt = re.findall(r'"(.+?)"', " ".join(named))
    routes = re.findall(r'"((?:GET|POST) /\S*)": ', source)

    assert len(exempt) >= 1
    assert set(exempt) <= set(routes)


def test_the_documented_problems_match_the_specification() -> None:
    """docs/api.md has a row for exactly each error's status and slug."""
    leaves = {failure for failure in failures() if failure is not errors.Unavailable}
    rows = re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", API, re.MULTILINE)

    assert sorted(rows) == sorted((str(leaf.status), leaf.slug) for leaf in leaves)


def test_every_name_of_the_specification_is_documented() -> None:
    """docs/api.md names each parameter, header and member of an answer; a card has its own page."""
    components = specification.components()
    names = {each["name"] for each in components["parameters"].values()}
    names |= {name.partition(".")[0] for name in components["headers"]}
    for name, schema in components["schemas"].items():
        if name not in ("Card", "Document"):
            names |= schema.get("properties", {}).keys()

    assert [name for name in sorted(names) if not re.search(rf'[`"/]{name}["`:/]', API)] == []


def loaded(code: str) -> set[str]:
    """Run *code* in another process; return the modules that it has loaded."""
    report = f"import sys; {code}; print(*sys.modules)"
    return set(check_output([sys.executable, "-c", report], text=True).split())


@pytest.mark.parametrize("function", ["predict", "health"])
def test_importing_the_routes_loads_nothing_heavy(function: str) -> None:
    """Importing a function loads no numpy, Pillow, runtime, Flask, TensorFlow or TLS."""
    found = loaded(f"import macule.functions.{function}")

    assert not found & {
        "numpy",
        "PIL",
        "ai_edge_litert",
        "flask",
        "tensorflow",
        "ssl",
        "subprocess",
    }
    assert not {name for name in found if name.startswith(("macule.convert", "macule.train"))}


def test_the_health_function_answers_without_numpy_and_pillow() -> None:
    """After GET on all of its routes neither they nor a runtime are in its process."""
    ask = (
        "from io import BytesIO; from macule.functions.health import ROUTES, app; "
        "asked = [{'REQUEST_METHOD': 'GET', 'PATH_INFO': route.split(' ')[1], "
        "'wsgi.input': BytesIO()} for route in ROUTES]; "
        "[b''.join(app(environ, lambda *_: None)) for environ in asked]"
    )

    assert not loaded(ask) & {"numpy", "PIL", "ai_edge_litert"}


@needs_tensorflow
def test_the_model_card_matches_the_recipe() -> None:
    """docs/model-card.md has exactly the figures of the files beside the weights."""
    from macule.train import card_page

    assert (ROOT / "docs/model-card.md").read_text() == card_page.render(
        ROOT / "layers/model/macule/weights"
    )

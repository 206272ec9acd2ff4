"""The house is whole: everything is documented, and every import points inward."""

import ast
import re
import sys
from pathlib import Path

import pytest
from macule import errors, settings
from macule.routes.openapi import specification
from macule.routes.openapi.operations import FUNCTIONS
from service import ROOT, needs_tensorflow

PACKAGE = ROOT / "layers/model/macule"
API = (ROOT / "docs/api.md").read_text()
# Offline, with TensorFlow: what serves knows nothing of it; `commands` imports it when it is asked.
TOOLS = ("convert", "train")
# What a module may know of its own package. http knows no route, decoding knows no model.
MAY_IMPORT = {
    "errors": set(),
    "uri": set(),
    "keys": {"errors"},
    "proxies": set(),
    "quota": {"errors", "packages", "shared"},
    "values": {"uri"},
    "settings": {"errors", "keys", "proxies", "quota", "uri", "values"},
    "packages": set(),
    "startup": {"errors", "jobs", "keys", "manifest", "packages", "settings", "store"},
    "processes": set(),
    "budget": {"processes", "settings"},
    "cells": set(),
    "metrics": {"cells"},
    "log": {"errors", "metrics", "settings"},
    "traces": {"settings"},
    "record": {"errors", "metrics", "proxies", "settings", "traces"},
    "manifest": {"errors"},
    "store.kept": {"errors"},
    "store": {"errors", "store.kept", "manifest"},
    "store.web": {"errors", "uri"},
    "store.s3": {"errors", "packages", "uri"},
    "store.gs": {"errors", "packages", "uri"},
    "store.objects": {"errors", "store.gs", "store.s3", "store.web"},
    "store.alias": {"errors"},
    "store.download": {
        "store.alias",
        "errors",
        "store.kept",
        "manifest",
        "store.objects",
        "store",
        "uri",
    },
    "store.remote": {"errors", "store.kept", "settings", "store", "uri"},
    "store.trial": {"errors", "store"},
    "store.publish": {"store.alias", "errors", "manifest", "store.objects", "store", "uri"},
    "decoding": {"decoding.formats", "decoding.header", "decoding.pixels"},
    "decoding.avif": {"decoding.iso"},
    "decoding.colour": {"decoding.icc", "decoding.iso", "decoding.png"},
    "decoding.dicom": {"errors"},
    "decoding.formats": {
        "decoding.avif",
        "decoding.dicom",
        "decoding.heif",
        "decoding.ico",
        "decoding.iso",
        "decoding.jpeg",
        "decoding.png",
        "decoding.webp",
        "errors",
    },
    "decoding.header": {
        "decoding.avif",
        "decoding.formats",
        "decoding.heif",
        "decoding.jpeg",
        "decoding.jpeg2000",
        "decoding.png",
        "decoding.tiff",
        "decoding.webp",
        "errors",
    },
    "decoding.heif": {"decoding.iso"},
    "decoding.icc": set(),
    "decoding.ico": set(),
    "decoding.iso": set(),
    "decoding.jpeg": set(),
    "decoding.jpeg2000": set(),
    "decoding.pixels": {
        "decoding.colour",
        "decoding.formats",
        "decoding.header",
        "decoding.heif",
        "decoding.icc",
        "decoding.jpeg",
        "decoding.jpeg2000",
        "decoding.png",
        "decoding.webp",
        "errors",
    },
    "decoding.png": set(),
    "decoding.tiff": set(),
    "decoding.webp": set(),
    "sandbox": set(),
    "decoders": {"admission", "errors", "decoding", "sandbox", "settings"},
    "admission": {
        "budget",
        "cache",
        "decoding",
        "decoding.avif",
        "decoding.heif",
        "decoding.jpeg",
        "decoding.pixels",
        "decoding.webp",
        "errors",
        "ladder",
        "metrics",
        "settings",
    },
    "shared": {"errors"},
    "cache": {"errors", "metrics", "packages", "settings", "shared"},
    "flight": {"errors"},
    "ladder": {"metrics"},
    "native_log": set(),
    "plan": {
        "admission",
        "budget",
        "decoding",
        "decoding.jpeg",
        "model",
        "native_log",
        "processes",
        "settings",
    },
    "model": {
        "errors",
        "decoding",
        "manifest",
        "metrics",
        "processes",
        "settings",
        "store",
        "store.remote",
        "store.trial",
    },
    "draining": {"errors"},
    "recycle": {"admission", "budget", "errors", "metrics", "model", "processes", "settings"},
    "explain": set(),
    "inference": {"explain", "decoding", "manifest", "model"},
    "ordered": set(),
    "photos": {"errors"},
    "classifier": {
        "budget",
        "errors",
        "decoding",
        "inference",
        "manifest",
        "model",
        "ordered",
        "photos",
        "settings",
        "store",
        "uri",
        "values",
    },
    "jobs": {"errors", "explain"},
    "jobs.addresses": {"peer"},
    "jobs.alive": set(),
    "jobs.courier": {"errors", "jobs.alive", "jobs.outbox", "jobs.webhooks"},
    "jobs.outbox": {"jobs", "jobs.webhooks", "metrics"},
    "jobs.webhooks": {"errors", "jobs.addresses", "metrics", "peer", "uri"},
    "jobs.space": {"errors", "jobs"},
    "jobs.sqlite": {"errors", "jobs", "jobs.alive", "jobs.space", "metrics"},
    "jobs.work": {"classify", "errors", "jobs", "record", "settings"},
    "jobs.runner": {"errors", "jobs", "jobs.sqlite"},
    "jobs.here": {
        "budget",
        "errors",
        "jobs",
        "jobs.courier",
        "jobs.outbox",
        "jobs.runner",
        "jobs.sqlite",
        "jobs.valkey",
        "jobs.webhooks",
        "jobs.work",
        "model",
        "packages",
        "settings",
    },
    "jobs.scripts": set(),
    "jobs.outage": {"errors"},
    "jobs.valkey": {"errors", "jobs", "jobs.outage", "jobs.scripts", "jobs.webhooks", "metrics"},
    "jobs.monitor": {"body", "errors", "http", "scrape"},
    "jobs.worker": {
        "budget",
        "errors",
        "jobs",
        "jobs.monitor",
        "jobs.scripts",
        "jobs.valkey",
        "jobs.webhooks",
        "jobs.work",
        "model",
        "processes",
        "recycle",
        "settings",
    },
    "body": {"errors"},
    "gate": {"errors", "http", "keys", "proxies", "quota", "settings"},
    "http": {"body", "budget", "draining", "errors", "gate", "record", "settings"},
    "codings": {"errors", "http"},
    "data_uri": {"errors"},
    "upload": {"codings", "data_uri", "errors", "http"},
    "classify": {
        "admission",
        "cache",
        "decoders",
        "errors",
        "explain",
        "flight",
        "http",
        "decoding",
        "inference",
        "ladder",
        "model",
        "settings",
        "upload",
    },
    "predictions": {
        "admission",
        "classify",
        "decoders",
        "draining",
        "errors",
        "http",
        "decoding",
        "jobs",
        "jobs.here",
        "jobs.webhooks",
        "metrics",
        "settings",
    },
    "scrape": {
        "admission",
        "budget",
        "errors",
        "http",
        "jobs.here",
        "metrics",
        "model",
        "processes",
    },
    "health": {
        "admission",
        "budget",
        "cache",
        "draining",
        "http",
        "decoding",
        "jobs.here",
        "model",
        "processes",
        "settings",
    },
    "tensors": {"data_uri", "errors", "http", "upload"},
    "v2": {
        "admission",
        "classify",
        "codings",
        "errors",
        "health",
        "http",
        "decoding",
        "manifest",
        "model",
        "settings",
        "tensors",
        "upload",
    },
    "peer": set(),
    "status": {"health", "http", "peer", "settings"},
    "refusal": {"body", "settings"},
    "aws_lambda": {"body", "doors", "http", "settings", "snapstart"},
    "snapstart": {"budget", "http", "processes"},
    "doors": {"body", "budget", "http", "log", "metrics", "processes", "refusal", "startup"},
    "assets": {"errors", "http"},
    "page": {"assets", "http"},
    "openapi": {"assets", "http", "openapi.page", "openapi.specification"},
    "openapi.entry": {"errors"},
    "openapi.inference": {"errors", "openapi.entry"},
    "openapi.operations": {"errors", "openapi.entry", "openapi.inference"},
    "openapi.page": {
        "openapi.page.markup",
        "openapi.page.samples",
        "openapi.page.tables",
        "openapi.page.tryout",
    },
    "openapi.page.markup": set(),
    "openapi.page.samples": set(),
    "openapi.page.tables": {"openapi.page.markup"},
    "openapi.page.tryout": {"openapi.page.markup", "openapi.page.samples"},
    "openapi.specification": {
        "draining",
        "errors",
        "http",
        "openapi.entry",
        "openapi.operations",
    },
    "doctor.finding": set(),
    "doctor.backends": {"doctor.finding"},
    "doctor.wheels": {"doctor.finding"},
    "doctor.visit": {"budget", "doctor.finding", "peer", "decoding.png"},
    "doctor": {
        "budget",
        "doctor.backends",
        "errors",
        "doctor.finding",
        "keys",
        "packages",
        "peer",
        "plan",
        "sandbox",
        "settings",
        "startup",
        "status",
        "doctor.wheels",
    },
    "batch.source": {"errors", "store.objects", "uri"},
    "batch.score": {"batch.source", "classify", "errors", "jobs", "settings"},
    "batch.journal": {"batch.score", "errors"},
    "batch.tables": {"errors", "packages"},
    "batch.progress": set(),
    "batch": {
        "batch.journal",
        "batch.progress",
        "batch.score",
        "batch.source",
        "batch.tables",
        "budget",
        "errors",
        "jobs",
        "model",
        "ordered",
        "settings",
        "store.remote",
    },
    "cli": {"commands", "errors", "values"},
    "functions": set(),
    "functions.predict": {
        "aws_lambda",
        "classify",
        "doors",
        "health",
        "openapi",
        "page",
        "predictions",
        "scrape",
        "v2",
    },
    "functions.health": {"aws_lambda", "doors", "health", "openapi", "scrape", "status"},
    "server": set(),
    "server.__main__": {"errors", "packages", "settings"},
    "server.configuration": {
        "budget",
        "draining",
        "errors",
        "http",
        "jobs.here",
        "log",
        "metrics",
        "processes",
        "recycle",
        "settings",
        "startup",
    },
    "server.worker": {"server.connection", "server.transfers"},
    "server.connection": {"server.chunks"},
    "server.transfers": {"server.connection"},
    "server.chunks": set(),
    "commands": {
        "batch",
        "convert",
        "convert.refusal",
        "classify",
        "doctor",
        "errors",
        "doctor.finding",
        "jobs.worker",
        "jobs.here",
        "keys",
        "log",
        "metrics",
        "model",
        "native_log",
        "packages",
        "plan",
        "store.publish",
        "settings",
        "startup",
        "store",
        "doctor.visit",
    },
}


def failures(kind: type[errors.Macule] = errors.Macule) -> list[type[errors.Macule]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in failures(child))]


def modules() -> dict[str, Path]:
    """Find the package's modules: `http`, `store` (a folder's front), `store.kept`; no tools."""
    found = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in TOOLS
    }
    del found["__init__"]
    return found


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "macule":
            inside = str(node.module).partition(".")[2]
            both = {f"{inside}.{alias.name}".strip(".") for alias in node.names}
            names |= {name if name in modules() else inside for name in both}
    return names - {""}


def test_every_module_has_its_place() -> None:
    """Each module imports only what the path of a request lets it know."""
    too_much = {
        name: imported(path) - MAY_IMPORT.get(name, set()) for name, path in modules().items()
    }

    assert {name: names for name, names in too_much.items() if names} == {}
    assert set(MAY_IMPORT) == set(modules())


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
    """No other module of the package asks for a variable."""
    readers = [name for name, path in modules().items() if asks_environment(path)]

    assert readers == ["settings"]


def asks_environment(path: Path) -> bool:
    """Say whether a module's code, not what its texts say, has `os.environ` or `os.getenv`."""
    code = ast.walk(ast.parse(path.read_text()))
    return any(
        re.match(r"os\.(environb?|getenv)\b", ast.unparse(node))
        or re.match(r"from os import .*(environ|getenv)", ast.unparse(node))
        for node in code
        if isinstance(node, ast.Attribute | ast.ImportFrom)
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_routes_are_those_of_the_specification(function: str) -> None:
    """docs/api.md has the same routes for each function as its OpenAPI document, and no others."""
    rows = re.findall(r"^\| (`(?:GET|POST) /.*?) \| ([a-z, ]+) \|", API, re.MULTILINE)
    written = [
        route
        for routes, functions in rows
        if function in functions.split(", ")
        for route in re.findall(r"`(.*?)`", routes)
    ]

    assert sorted(written) == sorted(FUNCTIONS[function])


@pytest.mark.parametrize("function", ["predict", "health"])
def test_what_is_open_or_free_is_a_route(function: str) -> None:
    """PUBLIC_ROUTES and UNMETERED_ROUTES of both functions name routes of theirs."""
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


def test_the_problems_are_those_of_the_specification() -> None:
    """docs/api.md has a row for each error's status and slug, and none that is no error's."""
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


def test_nothing_heavy_comes_with_the_routes() -> None:
    """Importing every route loads neither numpy, Pillow, a runtime, Flask, TensorFlow nor TLS."""
    import subprocess

    code = (
        "import sys; from macule.http.adapters import wsgi; from macule.routes import classify, health, open_inference; "
        "print(*{'numpy', 'PIL', 'ai_edge_litert', 'flask', 'tensorflow', 'ssl', 'subprocess'} "
        "& set(sys.modules))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert loaded.strip() == ""


@needs_tensorflow
def test_the_model_card_is_what_the_recipe_wrote() -> None:
    """docs/model-card.md has the figures of the files beside the weights, to the letter."""
    from macule.train import card_page

    assert (ROOT / "docs/model-card.md").read_text() == card_page.text(
        ROOT / "layers/model/macule/weights"
    )

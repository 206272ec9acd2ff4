"""Routing: from "METHOD /path/{name}" to a handler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from macule.http.messages import Exemptions, Handler, RouteTable


def build_table(routes: Mapping[str, Handler]) -> RouteTable:
    """Convert {"GET /health/": handler} to {path: {method: handler}}, without trailing slashes."""
    paths: dict[str, dict[str, Handler]] = {}
    for route, handler in routes.items():
        method, path = route.split(" ")
        paths.setdefault(normalize_path(path), {})[method] = handler
    return paths


def parse_exemptions(keys: Iterable[str], quotas: Iterable[str]) -> Exemptions:
    """Return the exemptions of routes such as "GET /health/"."""
    return Exemptions(*(frozenset(map(normalize_route, routes)) for routes in (keys, quotas)))


def match(routes: RouteTable, path: str) -> tuple[str, dict[str, str]]:
    """Return the route that matches *path* and the values of its {names}; "" if none does."""
    if path in routes:
        return path, {}
    parts = path.split("/")
    for route in routes:
        pairs = list(zip(route.split("/"), parts, strict=False))
        names = {known[1:-1]: part for known, part in pairs if known[:1] == "{" and part}
        same = sum(known == part for known, part in pairs)
        if names and len(pairs) == len(parts) == route.count("/") + 1 == same + len(names):
            return route, names
    return "", {}


def normalize_route(route: str) -> str:
    """Normalize the path of "GET /health/"."""
    method, path = route.split(" ")
    return f"{method} {normalize_path(path)}"


def normalize_path(path: str) -> str:
    """Remove one trailing slash: every path works with and without it."""
    return path.removesuffix("/") or "/"

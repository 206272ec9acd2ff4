"""Routes: "METHOD /path/{name}" to the handler that serves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from macule.http.messages import Exemptions, Handler, RouteTable


def build_table(routes: Mapping[str, Handler]) -> RouteTable:
    """Turn "GET /health/" -> handler into path -> method -> handler, paths without their slash."""
    paths: dict[str, dict[str, Handler]] = {}
    for route, handler in routes.items():
        method, path = route.split(" ")
        paths.setdefault(normalize_path(path), {})[method] = handler
    return paths


def parse_exemptions(keys: Iterable[str], quotas: Iterable[str]) -> Exemptions:
    """Read what is exempt, by names like those of routes."""
    return Exemptions(
        frozenset(map(normalize_route, keys)), frozenset(map(normalize_route, quotas))
    )


def match(routes: RouteTable, path: str) -> tuple[str, dict[str, str]]:
    """Find what answers at *path*: itself, or a route with {names} in place of its parts; or ""."""
    if path in routes:
        return path, {}
    parts = path.split("/")
    for route in routes:
        pairs = list(zip(route.split("/"), parts, strict=False))
        named = {known[1:-1]: part for known, part in pairs if known[:1] == "{" and part}
        same = sum(known == part for known, part in pairs)
        if named and len(pairs) == len(parts) == route.count("/") + 1 == same + len(named):
            return route, named
    return "", {}


def normalize_route(route: str) -> str:
    """Write "GET /health/" as its route is looked up."""
    method, path = route.split(" ")
    return f"{method} {normalize_path(path)}"


def normalize_path(path: str) -> str:
    """Drop one trailing slash: every path answers with and without."""
    return path.removesuffix("/") or "/"

"""Routes: "METHOD /path/{name}" to the handler that serves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from macule.http.messages import Exempt, Handler, Table


def table(routes: Mapping[str, Handler]) -> Table:
    """Turn "GET /health/" -> handler into path -> method -> handler, paths without their slash."""
    paths: dict[str, dict[str, Handler]] = {}
    for route, handler in routes.items():
        method, path = route.split(" ")
        paths.setdefault(bare(path), {})[method] = handler
    return paths


def exempt(keys: Iterable[str], quotas: Iterable[str]) -> Exempt:
    """Read what is exempt, by names like those of routes."""
    return Exempt(frozenset(map(plain, keys)), frozenset(map(plain, quotas)))


def find(routes: Table, path: str) -> tuple[str, dict[str, str]]:
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


def plain(route: str) -> str:
    """Write "GET /health/" as its route is looked up."""
    method, path = route.split(" ")
    return f"{method} {bare(path)}"


def bare(path: str) -> str:
    """Drop one trailing slash: every path answers with and without."""
    return path.removesuffix("/") or "/"

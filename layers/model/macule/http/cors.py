"""CORS headers for front ends of the allowed origins (Fetch standard, 3.2)."""

from __future__ import annotations

from macule.http.messages import Request, Response

EXPOSED_HEADERS = (
    "X-Request-Id, Server-Timing, X-Memory-Band, Retry-After, Location, ETag, Preference-Applied, "
    "Inference-Header-Content-Length, RateLimit, RateLimit-Policy, WWW-Authenticate"
)


def add_headers(request: Request, response: Response, allowed: tuple[str, ...]) -> None:
    """Add the headers that let front ends of the *allowed* origins read the response."""
    if not allowed:
        return
    headers, origin = response.headers, request.headers.get("origin", "")
    headers["Vary"] = ", ".join(filter(None, (headers.get("Vary"), "Origin")))
    if origin not in allowed and not (origin and "*" in allowed):
        return
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
    if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
        headers["Access-Control-Allow-Methods"] = headers.get("Allow", "GET")
        requested = request.headers.get("access-control-request-headers", "")
        headers["Access-Control-Allow-Headers"] = requested or "Content-Type"
        headers["Access-Control-Max-Age"] = "600"

"""The health function: neither numpy nor a runtime is in its process."""

from typing import TYPE_CHECKING

from macule import aws_lambda, doors, openapi, scrape, status
from macule import health as routes

if TYPE_CHECKING:
    from flask import Request
    from werkzeug.wrappers import Response

ROUTES = {
    "GET /health/": routes.alive,
    "GET /memory/": status.memory,
    "GET /metrics": scrape.show,
    "GET /": status.page,
    "GET /openapi.json": openapi.document,
}
OPEN = {"GET /health/"}  # without a key, where there are keys

app = doors.wsgi(ROUTES, OPEN)  # gunicorn
handler = aws_lambda.handler(ROUTES, OPEN)  # AWS Lambda


def health(request: "Request") -> "Response":
    """Answer for functions-framework: Cloud Run functions, local."""
    return doors.from_flask(request, app)

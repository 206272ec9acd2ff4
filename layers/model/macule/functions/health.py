"""The health function, whose process loads neither numpy nor a runtime."""

from typing import TYPE_CHECKING

from macule.http.adapters import aws_lambda, flask, wsgi
from macule.routes import metrics_endpoint, openapi, service_status
from macule.routes.health import alive
from macule.server import startup

if TYPE_CHECKING:
    from flask import Request
    from werkzeug.wrappers import Response

ROUTES = {
    "GET /health/": alive,
    "GET /memory/": service_status.memory,
    "GET /metrics": metrics_endpoint.show,
    "GET /": service_status.page,
    "GET /openapi.json": openapi.document,
}
PUBLIC_ROUTES = {"GET /health/"}  # need no key

startup.initialize()
app = wsgi.create_app(ROUTES, PUBLIC_ROUTES)  # gunicorn
handler = aws_lambda.create_handler(ROUTES, PUBLIC_ROUTES)  # AWS Lambda


def health(request: "Request") -> "Response":
    """Serve functions-framework: Cloud Run functions, or local."""
    return flask.respond(request, app)

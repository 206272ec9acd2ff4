"""The predict function: its routes and entry points."""

from typing import TYPE_CHECKING

from macule.http.adapters import aws_lambda, flask, wsgi
from macule.routes import (
    classify,
    health,
    metrics_endpoint,
    open_inference,
    openapi,
    page,
    predictions,
)
from macule.server import startup

if TYPE_CHECKING:
    from flask import Request
    from werkzeug.wrappers import Response

ROUTES = {
    "GET /": page.view,
    "GET /page/{file}": page.file,
    "POST /page/": page.form,
    "GET /openapi.json": openapi.document,
    "GET /docs/": openapi.docs,
    "GET /docs/{file}": openapi.file,
    "GET /health/": health.alive,
    "GET /ready/": health.ready,
    "GET /memory/": health.memory,
    "GET /metrics": metrics_endpoint.show,
    "GET /warmup/": health.warmup,
    "GET /model/": health.card,
    "POST /predict/": classify.classify_image,
    "POST /": classify.classify_image,
    "POST /predictions": predictions.create,
    "GET /predictions/{id}": predictions.show,
    "POST /predictions/{id}/cancel": predictions.cancel,
    "GET /v2": open_inference.server,
    "GET /v2/health/live": open_inference.live,
    "GET /v2/health/ready": open_inference.ready,
    "GET /v2/models/{name}": open_inference.model_metadata,
    "GET /v2/models/{name}/ready": open_inference.ready,
    "POST /v2/models/{name}/infer": open_inference.infer,
    "GET /v2/models/{name}/versions/{version}": open_inference.model_metadata,
    "GET /v2/models/{name}/versions/{version}/ready": open_inference.ready,
    "POST /v2/models/{name}/versions/{version}/infer": open_inference.infer,
}
# Routes that need no key; the page's form calls /predict/, which needs one.
PUBLIC_ROUTES = {
    "GET /health/",
    "GET /ready/",
    "GET /",
    "GET /page/{file}",
    "POST /page/",
    "GET /openapi.json",
    "GET /docs/",
    "GET /docs/{file}",
}
# POST routes that are not counted against a quota.
UNMETERED_ROUTES = {"POST /predictions/{id}/cancel", "POST /page/"}

startup.initialize()
# gunicorn: Render, make serve. Flask is not imported.
app = wsgi.create_app(ROUTES, PUBLIC_ROUTES, UNMETERED_ROUTES)
handler = aws_lambda.create_handler(ROUTES, PUBLIC_ROUTES, UNMETERED_ROUTES)  # AWS Lambda


def predict(request: "Request") -> "Response":
    """Serve functions-framework: Cloud Run functions, or local."""
    return flask.respond(request, app)

"""The predict function: what it answers, and how it is reached."""

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
# Without a key, where there are keys; the form of the page asks /predict/, which needs one.
OPEN = {
    "GET /health/",
    "GET /ready/",
    "GET /",
    "GET /page/{file}",
    "POST /page/",
    "GET /openapi.json",
    "GET /docs/",
    "GET /docs/{file}",
}
# Where there is a quota, every other POST counts.
FREE = {"POST /predictions/{id}/cancel", "POST /page/"}

startup.begin()
app = wsgi.app(ROUTES, OPEN, FREE)  # gunicorn: Render, make serve. Flask is never imported
handler = aws_lambda.handler(ROUTES, OPEN, FREE)  # AWS Lambda


def predict(request: "Request") -> "Response":
    """Answer for functions-framework: Cloud Run functions, local."""
    return flask.respond(request, app)

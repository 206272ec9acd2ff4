"""Door of the predict function: what it answers, and how it is reached."""

from typing import TYPE_CHECKING

from macule import classify, doors, health, predictions, scrape

if TYPE_CHECKING:
    from flask import Request
    from werkzeug.wrappers import Response

ROUTES = {
    "GET /health/": health.alive,
    "GET /ready/": health.ready,
    "GET /memory/": health.memory,
    "GET /metrics": scrape.show,
    "GET /warmup/": health.warmup,
    "GET /model/": health.card,
    "POST /predict/": classify.photo,
    "POST /": classify.photo,
    "POST /predictions": predictions.create,
    "GET /predictions/{id}": predictions.show,
    "POST /predictions/{id}/cancel": predictions.cancel,
}

app = doors.wsgi(ROUTES)  # gunicorn: Render, make serve. Flask is never imported
handler = doors.lambda_handler(ROUTES)  # AWS Lambda


def predict(request: "Request") -> "Response":
    """Answer for functions-framework: Cloud Run functions, local."""
    return doors.from_flask(request, app)

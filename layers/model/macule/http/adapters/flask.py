"""The Flask adapter: functions-framework calls a function with a Flask request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from flask import Request
    from werkzeug.wrappers import Response


def respond(request: Request, app: WSGIApplication) -> Response:
    """Pass *request* to *app*, a WSGI application: Cloud Run functions, functions-framework."""
    from werkzeug.wrappers import Response

    return Response.from_app(app, request.environ)

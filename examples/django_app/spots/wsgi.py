"""The application for gunicorn: `gunicorn --chdir examples/django_app spots.wsgi`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "spots.settings")
application = get_wsgi_application()

import spots.urls  # noqa: E402, F401 Django would load the model with the first request

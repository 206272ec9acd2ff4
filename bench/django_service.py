"""What macule replaces: Django and TensorFlow, which decode the whole photo."""

import os
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from tensorflow_service import classify

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY=os.urandom(16).hex(),
    DATA_UPLOAD_MAX_MEMORY_SIZE=20 * 2**20,
)
django.setup()


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"ok")


def predict(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"probabilities": classify(request.body)})


urlpatterns: list[Any] = [path("health/", health), path("predict/", predict)]
app = get_wsgi_application()

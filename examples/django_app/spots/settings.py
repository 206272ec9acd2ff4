"""Minimal settings for an upload form: no database, no sessions, no files on disk."""

import os
import secrets

DEBUG = False
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or secrets.token_hex()  # nothing here is signed
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1").split(",")
ROOT_URLCONF = "spots.urls"
WSGI_APPLICATION = "spots.wsgi.application"
INSTALLED_APPS = ["spots"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
USE_TZ = True

# A photo is kept in memory during its request, never on disk; a larger one is dropped while it
# arrives. 64 kB are for the form around it.
MAX_PHOTO_BYTES = 10 * 2**20
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]
FILE_UPLOAD_MAX_MEMORY_SIZE = MAX_PHOTO_BYTES + 2**16

# With MACULE_URL a separate service answers; without it this process does.
MACULE_URL = os.environ.get("MACULE_URL", "").rstrip("/")
MACULE_KEY = os.environ.get("MACULE_KEY", "")
MACULE_MODEL = os.environ.get("MACULE_MODEL") or None  # a folder; by default the default model

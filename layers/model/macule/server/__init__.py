"""gunicorn, as it serves a function: its configuration, its worker, its connections; no route."""

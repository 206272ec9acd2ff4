"""The servers: gunicorn's configuration and worker, and the queue worker. It has no route."""

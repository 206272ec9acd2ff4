"""How gunicorn runs a function: one worker, few threads, nothing loaded before it is needed."""

from macule import settings

chosen = settings.read()  # a setting that cannot be read stops the start, not the first request

wsgi_app = "functions.predict.main:app"
bind = chosen.bind
workers = chosen.workers
worker_class = "gthread"
threads = chosen.threads
timeout = 60  # of a worker that no longer beats, not of a request
graceful_timeout = chosen.graceful_timeout_s
keepalive = 5
control_socket_disable = True  # a service needs no socket in the home folder
loglevel = "warning"
proc_name = "macule"

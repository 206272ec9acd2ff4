"""How gunicorn runs a function: one worker, few threads, nothing loaded before it is needed."""

from typing import Any

from macule import settings

from infra import limits

function = settings.read().function  # a setting that cannot be read stops the start
bounds = limits.read().of(function)
for name, value in bounds.variables().items():
    settings.tell(name, value)  # what the operator chose stays
chosen = settings.read()

wsgi_app = f"functions.{function}.main:app"
bind = chosen.bind
workers = chosen.workers
worker_class = "gthread"
threads = chosen.threads
timeout = bounds.timeout_s  # of a worker that no longer beats, not of a request
graceful_timeout = chosen.graceful_timeout_s
keepalive = 5
JOB_S = 5.0  # more than a photo takes
control_socket_disable = True  # a service needs no socket in the home folder
loglevel = "warning"
proc_name = "macule"


def when_ready(server: Any) -> None:
    """Leave what workers share to itself: the collector's marks would copy 1 MB of it to each."""
    import gc

    from macule import log, metrics

    metrics.share(workers)  # what all of them count in, and those that come after
    log.begin()
    gc.collect()
    gc.freeze()


def pre_fork(server: Any, worker: Any) -> None:
    """Tell a worker that comes after the first ones, and whether it is one too many."""
    worker.replaces = worker.age > workers
    worker.surplus = server.num_workers > workers


def post_worker_init(worker: Any) -> None:
    """Watch the worker's memory; one that replaces another is warm before it takes requests."""
    from macule import recycle
    from macule.jobs import here

    worker.wear = recycle.watch(chosen)
    if function == "predict":
        here.resume()
    if worker.replaces:
        recycle.take_over(chosen.model, worker.ppid, worker.surplus)


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Count predictions; pings and health checks wear nobody out."""
    from macule import recycle

    if environ["REQUEST_METHOD"] == "POST":
        recycle.served(worker.wear, worker.ppid)


def worker_exit(server: Any, worker: Any) -> None:
    """Let the job at hand end; what does not is taken up by the next worker."""
    from macule.jobs import here

    here.stop(JOB_S)

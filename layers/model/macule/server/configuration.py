"""How gunicorn runs a function: one worker, few threads, nothing loaded before it is needed."""

import resource
from typing import Any

from macule import settings
from macule.errors import BadSetting

try:
    chosen = settings.read()
except BadSetting as error:  # gunicorn would print its traceback
    raise SystemExit(f"macule: {error}") from None

wsgi_app = f"macule.functions.{chosen.function}:app"
bind = chosen.bind
workers = chosen.workers
worker_class = "macule.server.worker.Patient"
threads = chosen.threads
timeout = chosen.worker_timeout_s  # of a worker that no longer beats, not of a request
graceful_timeout = chosen.graceful_timeout_s
keepalive = 5
# Files are left for the model, the queue and what is sent on; beyond that whoever only waits goes.
files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
worker_connections = 1000 if files == resource.RLIM_INFINITY else max(8, min(1000, files - 64))
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190
forwarded_allow_ips = ""  # nobody's X-Forwarded-Proto is needed, so nobody's is believed
control_socket_disable = True  # a service needs no socket in the home folder
loglevel = "warning"
proc_name = "macule"


# What bodies and answers on their way may take: one part of the memory, and no more than that.
TRANSFERS_SHARE, TRANSFERS_BYTES = 16, 2**25


def on_starting(server: Any) -> None:
    """Check what the settings name, once: a reload must not end a service that runs."""
    from macule.server import startup

    startup.check_settings()


def when_ready(server: Any) -> None:
    """Leave what workers share to itself: the collector's marks would copy 1 MB of it to each."""
    import gc

    from macule.http import draining
    from macule.memory import processes
    from macule.observability import log_format, metrics

    processes.root_pid()  # whose descendants the workers are
    draining.announce(server)
    metrics.share(workers)  # what all of them count in, and those that come after
    log_format.begin()
    gc.collect()
    gc.freeze()


def on_reload(server: Any) -> None:
    """HUP: let the workers of now serve until others are warm; gunicorn has set up its log anew."""
    from macule.http import draining
    from macule.observability import log_format

    draining.note_reload(server)
    log_format.begin()


def pre_fork(server: Any, worker: Any) -> None:
    """Tell a worker that comes after the first ones, and whether it is one too many."""
    from macule.http import draining

    draining.hold()
    worker.replaces = worker.age > workers
    worker.surplus = server.num_workers > workers


def post_worker_init(worker: Any) -> None:
    """Watch the worker's memory; one that replaces another is warm before it takes requests."""
    from macule.http import draining
    from macule.inference import runtime
    from macule.jobs import selection
    from macule.memory import budget, recycling

    draining.prepare(worker, chosen.drain_s, chosen.graceful_timeout_s, selection.leave)
    worker.wear = recycling.create_policy(chosen)
    share = budget.current().limit.bytes // workers // TRANSFERS_SHARE
    worker.transfers.most_bytes = min(share, TRANSFERS_BYTES)
    if chosen.function == "predict":
        selection.resume()
    if worker.replaces:
        recycling.warm_up_worker(
            lambda: runtime.get_or_load(chosen.model), worker.ppid, worker.surplus
        )
    draining.note_warm(worker)


def pre_request(worker: Any, req: Any) -> None:
    """Count what runs; a connection to a service that is being stopped ends with its answer."""
    from macule.http import draining

    draining.let_in(worker, req)


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Count predictions; pings, health checks and whoever is turned away wear nobody out."""
    from macule.http import application, draining
    from macule.memory import recycling

    if req.body.is_awaited:
        return  # it goes on when its body is there
    draining.let_out(worker, req)
    # a request that broke off early has no method
    if environ.get("REQUEST_METHOD") == "POST" and resp.status_code not in application.REFUSED:
        recycling.count_prediction(worker.wear, worker.ppid)


def worker_exit(server: Any, worker: Any) -> None:
    """Let the job at hand end; what does not is taken up by the next worker."""
    from macule.jobs import selection

    selection.leave(selection.END_S)

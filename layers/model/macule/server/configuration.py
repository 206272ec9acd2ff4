"""gunicorn's configuration: one worker by default, and lazy loading."""

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
worker_class = "macule.server.worker.PollingWorker"
threads = chosen.threads
timeout = chosen.worker_timeout_s  # of a worker without heartbeat, not of a request
graceful_timeout = chosen.graceful_timeout_s
keepalive = 5
# 64 files are reserved for the model, the queue and outgoing connections. When connections run out,
# idle ones are closed.
max_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
is_unlimited = max_files == resource.RLIM_INFINITY
worker_connections = 1000 if is_unlimited else max(8, min(1000, max_files - 64))
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190
forwarded_allow_ips = ""  # X-Forwarded-Proto is not needed, so no client is trusted with it
control_socket_disable = True  # a service needs no socket in the home folder
loglevel = "warning"
proc_name = "macule"


# Memory for bodies and responses in transit: a sixteenth of the limit, at most 32 MB.
TRANSFERS_DIVISOR, MAX_TRANSFERS_BYTES = 16, 2**25


def on_starting(server: Any) -> None:
    """Check the settings once: a reload must not end a running service."""
    from macule.server import startup

    startup.check_settings()


def when_ready(server: Any) -> None:
    """Prepare state that workers share; frozen, as the collector would copy 1 MB to each."""
    import gc

    from macule.http import draining
    from macule.memory import processes
    from macule.observability import log_format, metrics

    processes.root_pid()  # the ancestor of all workers
    draining.install_arbiter_handler(server)
    metrics.counters(workers)  # counters of all workers, also of later ones
    log_format.configure()
    gc.collect()
    gc.freeze()


def on_reload(server: Any) -> None:
    """HUP: keep the current workers until new ones are warm; gunicorn has set up its log again."""
    from macule.http import draining
    from macule.observability import log_format

    draining.record_reload(server)
    log_format.configure()


def pre_fork(server: Any, worker: Any) -> None:
    """Mark a worker that replaces another, and one that is surplus."""
    from macule.http import draining

    draining.block_sigterm()
    worker.is_replacement = worker.age > workers
    worker.is_surplus = server.num_workers > workers


def post_worker_init(worker: Any) -> None:
    """Watch the worker's memory; warm up a replacement before it accepts requests."""
    from macule.http import draining
    from macule.inference import runtime
    from macule.jobs import selection
    from macule.memory import budget, recycling

    draining.install_worker_handler(worker, chosen.drain_s, graceful_timeout, selection.stop)
    worker.wear = recycling.create_policy(chosen)
    share = budget.current().limit.bytes // workers // TRANSFERS_DIVISOR
    worker.transfers.max_bytes = min(share, MAX_TRANSFERS_BYTES)
    if chosen.function == "predict":
        selection.resume_jobs()
    if worker.is_replacement:
        recycling.warm_up_worker(
            lambda: runtime.get_or_load(chosen.model), worker.ppid, worker.is_surplus
        )
    draining.record_warm(worker)


def pre_request(worker: Any, req: Any) -> None:
    """Count running requests; when the service stops, close the connection after its response."""
    from macule.http import draining

    draining.request_started(worker, req)


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Count predictions for recycling; pings, health checks and refused requests do not count."""
    from macule.http import application, draining
    from macule.memory import recycling

    if req.body.is_pending:
        return  # the request runs again when its body has arrived
    draining.request_finished(worker, req)
    is_post = environ.get("REQUEST_METHOD") == "POST"  # a request that failed early has no method
    if is_post and resp.status_code not in application.REFUSED_STATUSES:
        recycling.count_prediction(worker.wear, worker.ppid)


def worker_exit(server: Any, worker: Any) -> None:
    """Let the current job finish; otherwise the next worker runs it again."""
    from macule.jobs import selection

    selection.stop(selection.STOP_TIMEOUT_S)

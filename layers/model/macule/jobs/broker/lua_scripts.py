"""The Lua scripts in `scripts/`, which change jobs in Redis or Valkey, each atomically.

Only these scripts change a job's state. Times are the server's, so that the clocks of machines may
differ. Keys under `macule:1:`

    job:ID        hash: status, asked, owner, times, outcome, attempts, taker; see the scripts
    image:ID      the image, until the job ends
    alive:ID      the worker of the job; expires unless renewed
    gone          sorted set: "ID OWNER" of jobs, by when their id is forgotten
    key:DIGEST    hash: the job of an Idempotency-Key, and the fingerprint of its request
    open          sorted set: jobs that have not ended, by when to check them
    held          sorted set: "ID BYTES ROOM", the bytes of each job, and those reserved for its
                  outcome, by when they expire
    sums          hash: both of these over all jobs, `bytes` and `room`
    due           sorted set: webhooks, "ID EVENT", by when to deliver them
    hook:NAME     hash: message, URL, body and attempts of a webhook
    parked        list: jobs failed because their workers died, newest first
    celery:queue  list: Celery's messages, each with only the id of a job
"""

from __future__ import annotations

from pathlib import Path

PREFIX = "macule:1:"
CELERY = f"{PREFIX}celery:"
QUEUE = "queue"
JOB_BYTES, WEBHOOK_BYTES = 2048, 8192  # a job without image and outcome; a webhook that waits
EXPIRED_ID_BYTES, MAX_EXPIRED_IDS = 256, 10_000  # an id with its owner; ids of deleted jobs
EXPIRED_IDS_DIVISOR = 16  # those ids take at most max_bytes / 16
FREE_MEMORY_DIVISOR = 16  # maxmemory / 16 stays free for requests in progress
FOLDER = Path(__file__).parent / "scripts"


def read_all() -> dict[str, str]:
    """Return the scripts by name.

    All but `put` run even if memory has run out (allow-oom): they free more than they take.
    """
    texts = {path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.lua")}
    common = f"""
local P, QUEUE = '{PREFIX}', '{CELERY}{QUEUE}'
local JOB_BYTES, HOOK_BYTES = {JOB_BYTES}, {WEBHOOK_BYTES}
{texts.pop("common")}"""
    starts = {name: "#!lua" if name == "put" else "#!lua flags=allow-oom" for name in texts}
    return {name: starts[name] + common + text for name, text in texts.items()}

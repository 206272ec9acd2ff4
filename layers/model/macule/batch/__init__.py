"""Batch scoring: many images into one table, in this process or through the workers of a queue.

Rows are written in the order of the source. An interrupted run therefore resumes by counting rows,
and memory use does not depend on the number of images.
"""

from __future__ import annotations

import math
from threading import Event
from typing import TextIO

from macule import __version__
from macule.batch import score, source, tables
from macule.batch.journal import Journal
from macule.batch.progress import Progress
from macule.batch.score import Row
from macule.errors import ModelUnavailable
from macule.inference import ordered_map, runtime
from macule.jobs import Queue
from macule.memory import allocator, budget
from macule.registry import remote
from macule.settings import Settings

MAX_AHEAD_PER_WORKER = 64  # per worker: rows that may wait for a slow image before them
QUEUE_CONCURRENCY = 16  # jobs at once in a queue; their images stay in memory until added


def run(
    place: str,
    out: str,
    chosen: Settings,
    *,
    restart: bool = False,
    workers: int | None = None,
    queue: Queue | None = None,
    watcher: TextIO | None = None,
) -> dict[str, int]:
    """Score the images of *place* into the file *out*, or resume an earlier run.

    *workers*: images at once; by default one per processor, or QUEUE_CONCURRENCY in a queue.
    Returns: the number of rows by status.
    Raises: BadRequest; Unavailable if a retry may help, the rows so far are kept.
    """
    allocator.configure()
    write = tables.writer(out)
    card = remote.find(chosen.model).card
    labels, stop = list(card.labels), Event()
    header = {
        "macule": __version__,
        "source": place,
        "model": card.sha256,
        "labels": labels,
        "max_image_bytes": chosen.max_image_bytes,
        "max_image_pixels": chosen.max_image_pixels,
    }
    if queue:
        scorer, workers = score.queue_scorer(queue, stop), workers or QUEUE_CONCURRENCY
    else:
        runtime.get_or_load(chosen.model)
        scorer, workers = score.local_scorer(chosen), workers or math.ceil(budget.cpu_count())

    def score_image(name: str) -> Row:
        return score.score_row(name, scorer, chosen.max_image_bytes, labels, stop)

    names, total = source.list_images(place, out)
    journal = Journal(out, header, restart)
    try:
        journal.resume(names)
        progress = Progress(watcher, journal.count, total)
        try:
            for row in ordered_map.ordered_map(
                names, score_image, workers, workers * MAX_AHEAD_PER_WORKER, stop.set
            ):
                if row["model"] not in (None, card.sha256):
                    raise ModelUnavailable(
                        f"A worker answers with the model {row['model'][:12]}, not with "
                        f"{card.sha256[:12]}, the model of this batch."
                    )
                journal.append(row)
                progress.update(journal.count, journal.count - journal.tally.get("ok", 0))
        finally:
            progress.close()
        with journal.finished() as path:
            write(path, journal.lines(), score.columns(labels))
    finally:
        journal.close()
    return journal.tally

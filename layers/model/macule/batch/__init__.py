"""Many images, one row each: through the model of this process, or the workers of a queue.

Rows are written in the order of the source. So a run that was ended, however, is gone on with by
counting, and memory is the same for a thousand images and a million.
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

AHEAD = 64  # rows a worker that may wait for a slow image before them
WAITING = 16  # jobs at once in a queue: their images are in memory here until they are put


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
    """Score the images of *place* into the file *out*, or go on with what an earlier run left.

    *workers*: images at once; by default one a processor, or WAITING in the queue.
    Returns: how many rows have which status.
    Raises: BadRequest for what was asked; Unavailable for what may pass: the rows so far stay.
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
        answer, workers = score.through(queue, stop), workers or WAITING
    else:
        runtime.get_or_load(chosen.model)
        answer, workers = score.local(chosen), workers or math.ceil(budget.cpu_count())

    def one(name: str) -> Row:
        return score.row(name, answer, chosen.max_image_bytes, labels, stop)

    names, total = source.find(place, out)
    written = Journal(out, header, restart)
    try:
        written.resume(names)
        progress = Progress(watcher, written.count, total)
        try:
            for row in ordered_map.ordered_map(names, one, workers, workers * AHEAD, stop.set):
                if row["model"] not in (None, card.sha256):
                    raise ModelUnavailable(
                        f"A worker answers with the model {row['model'][:12]}, not with "
                        f"{card.sha256[:12]}, which this batch is of."
                    )
                written.append(row)
                progress.tell(written.count, written.count - written.tally.get("ok", 0))
        finally:
            progress.close()
        with written.finished() as path:
            write(path, written.lines(), score.columns(labels))
    finally:
        written.close()
    return written.tally

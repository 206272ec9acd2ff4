"""Working on a job: what a worker of any queue does with one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from macule import settings
from macule.errors import Macule, Unavailable, problem_document
from macule.inference import pipeline
from macule.jobs import FAILED, SUCCEEDED, Order
from macule.observability import access_log

log = logging.getLogger("macule")


def outcome(order: Order, image: bytes, chosen: settings.Settings) -> tuple[str, Mapping[str, Any]]:
    """Classify the image of a job.

    Returns: how it ended, and the answer or the problem document.
    Raises: Unavailable, where it may be tried again.
    """
    try:
        done = pipeline.predict(image, chosen, order.top_k, order.with_cam)
    except Unavailable:
        raise
    except Macule as error:
        access_log.worked(FAILED, {"slug": error.slug, "key": order.owner}, {})
        return FAILED, problem_document(error)
    except Exception:
        log.exception("a job failed")
        access_log.worked(FAILED, {"slug": Macule.slug, "key": order.owner}, {})
        return FAILED, problem_document(Macule("Something went wrong on our side; the log has it."))
    access_log.worked(SUCCEEDED, {**done.facts, "key": order.owner}, done.stages)
    return SUCCEEDED, done.answer

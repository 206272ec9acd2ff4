"""Run one job; the same for every queue."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from macule.errors import Macule, Unavailable, problem_document
from macule.inference import pipeline
from macule.jobs import FAILED, SUCCEEDED, JobOptions
from macule.observability import access_log
from macule.settings import Settings

log = logging.getLogger("macule")


def run(options: JobOptions, image: bytes, chosen: Settings) -> tuple[str, Mapping[str, Any]]:
    """Classify the image of a job.

    Returns: the final status, and the answer or the problem document.
    Raises: Unavailable, if the job may be retried.
    """
    try:
        done = pipeline.predict(image, chosen, options.predict)
    except Unavailable:
        raise
    except Macule as error:
        access_log.log_job(FAILED, {"slug": error.slug, "key": options.owner}, {})
        return FAILED, problem_document(error)
    except Exception:
        log.exception("a job failed")
        access_log.log_job(FAILED, {"slug": Macule.slug, "key": options.owner}, {})
        return FAILED, problem_document(Macule("Something went wrong on our side; the log has it."))
    access_log.log_job(SUCCEEDED, {**done.facts, "key": options.owner}, done.stages)
    return SUCCEEDED, done.answer

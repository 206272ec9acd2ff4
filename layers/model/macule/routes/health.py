"""Routes for operators: health, readiness, memory, warm-up, model card."""

from __future__ import annotations

from typing import Any

from macule import settings
from macule.caching import answers
from macule.http import draining, messages
from macule.http.messages import Request, Response
from macule.inference import runtime
from macule.inference.decoding import cost
from macule.jobs import selection
from macule.memory import admission, budget, processes

MB = 2**20
RETRY_AFTER_S = "1"


def alive(request: Request) -> Response:
    """GET /health/: liveness. Never loads the model or waits for it."""
    if "application/json" in request.headers.get("accept", ""):
        return messages.json_response({"status": "ok"})
    return Response(200, b"ok", {"Content-Type": "text/plain; charset=utf-8"})


def ready(request: Request) -> Response:
    """GET /ready/: 200 if a model is loaded and the service is not draining, else 503."""
    state, reason = ("draining", "") if draining.is_draining() else runtime.state()
    warm = runtime.loaded()
    document: dict[str, Any] = {"state": state, "model": warm.identity() if warm else None}
    if reason:
        document["detail"] = reason
    if state == "ready":
        return messages.json_response(document)
    return messages.json_response(document, 503, Retry_After=RETRY_AFTER_S)


def memory(request: Request) -> Response:
    """GET /memory/: memory use of all processes of this service, and the limit."""
    return messages.json_response(report())


def report() -> dict[str, Any]:
    chosen, limit = settings.current(), budget.current().limit
    pids = processes.service_pids()
    used = processes.usage(pids)
    share = used.pss / limit.bytes
    band = budget.band_of(share)
    sizes = {"rss_mb": _mb(used.rss), "vms_mb": _mb(used.vms)}
    held, kept, waiting = admission.current(), answers.current(), selection.local_backlog()
    return {
        "status": band if band in ("critical", "oom_imminent") else "ok",
        "memory": {**sizes, "percent": round(share * 100, 2)},
        "model_loaded": runtime.loaded() is not None,
        "gradcam_enabled": chosen.enable_gradcam,
        "pss_mb": _mb(used.pss),
        "peak_mb": _mb(used.peak),
        "limit_mb": _mb(limit.bytes),
        "limit_source": limit.source,
        "headroom_mb": _mb(max(0, held.free())),
        "band": band,
        "slots": {
            "threads": chosen.threads,
            "images": held.level().slots or held.slots,
            "admitted": held.admitted,
            "waiting": held.waiting,
        },
        "ledger": {
            "processes": len(pids),
            "unreclaimable_mb": _mb(budget.used_bytes(limit)),
            "held_mb": _mb(held.held_bytes),
            "reserve_mb": _mb(admission.RESERVE_BYTES),
            "cache_mb": _mb(kept.held_bytes) if kept else 0.0,
            **_jobs(waiting),
            **_model(held.free(), chosen.max_image_pixels),
        },
    }


def warmup(request: Request) -> Response:
    """GET /warmup/: load the model and run it once; no-op if it is loaded."""
    warm = runtime.get_or_load(settings.current().model)
    if "first" not in warm.stages:
        runtime.run_blank(warm)
    stages = {name: round(spent, 1) for name, spent in warm.stages.items()}
    took = {"cold_start_ms": warm.cold_start_ms, "stages_ms": stages}
    return messages.json_response({"state": "ready", **took})


def card(request: Request) -> Response:
    """GET /model/: the model card; a remote model is downloaded first."""
    return messages.json_response(runtime.card(settings.current().model).document)


def _jobs(waiting: selection.Backlog | None) -> dict[str, Any]:
    if waiting is None:
        return {}
    jobs, max_jobs = _mb(waiting.usage.bytes), _mb(waiting.usage.max_bytes)
    return {"jobs": waiting.jobs, "jobs_mb": jobs, "jobs_limit_mb": max_jobs}


def _model(free: int, max_pixels: int) -> dict[str, Any]:
    """Return the memory of the model, and the largest photo of each format that fits now."""
    warm = runtime.loaded()
    if warm is None:
        return {}
    grown = warm.grown
    return {
        "runtime_mb": _mb(grown["import"]),
        "model_mb": _mb(grown["load"] + grown.get("first", 0)),
        "largest_mp": cost.largest_mp(max(0, free), warm.card.side_px, max_pixels),
    }


def _mb(size: int) -> float:
    return round(size / MB, 1)

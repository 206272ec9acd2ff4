"""One image file to its answer: header, memory admission, decoding, the runtime, the answer cache."""

from __future__ import annotations

import json
import os
import time
from typing import Any, NamedTuple

from macule import settings
from macule.caching import answers
from macule.inference import activation_maps, classification, decoder_threads, decoding, runtime
from macule.inference.decoding import cost
from macule.memory import admission
from macule.memory.degradation import Level

GRADCAM_OFF = "Activation maps are switched off here (ENABLE_GRADCAM=false)."
MEMORY_SHORT = "Memory is short now: activation maps are left out until it is not."
NO_MAPS = "This model has no activation maps; its card says why."
# What an answer says of the photo, and a cache keeps; the first two are there if they must be.
MISSING, WARNINGS = "explanation_missing", "warnings"
REQUIRED_KEYS = {"decision", "predictions", "explanation"}


class Outcome(NamedTuple):
    """An answer as docs/api.md has it, milliseconds by stage, and what else a log may have."""

    answer: dict[str, Any]
    stages: dict[str, float]
    facts: dict[str, Any]


def predict(
    body: bytes,
    chosen: settings.Settings,
    top_k: int | None = None,
    with_cam: bool = False,
    digest: str = "",
    *,
    asks: bool = True,
    keeps: bool = True,
) -> Outcome:
    """Classify one image file, or say again what was found in it.

    Args:
      digest: of *body*, where it is known already.
      asks, keeps: whether the cache may answer, and may keep what is found.
    Raises: UnsupportedImage, BadImage, ImageTooLarge, CannotFit, Unavailable.
    """
    began = time.perf_counter()
    header = decoder_threads.inspect(body, chosen)
    cold = runtime.loaded() is None
    warm = runtime.get_or_load(chosen.model)  # first, as one that cannot serve must not seem to
    if cold:
        admission.current().reset_baseline()
    kept, key = answers.current() if asks or keeps else None, ""
    if kept:
        maps = with_cam and chosen.enable_gradcam
        key = answers.cache_key(digest or sha256(body), warm.card.document, top_k, with_cam, maps)
    found = _parse_cached(kept.get(key)) if kept and asks else None
    hit, stages, noted = found is not None, dict[str, float](), {"rung": ""}
    if found is None:
        found, stages, noted = _classify(body, header, warm, chosen, top_k, with_cam)
        if kept and keeps and found.get(MISSING) != MEMORY_SHORT:
            kept.put(key, json.dumps(found, separators=(",", ":")).encode())
    answer = {
        "id": new_id(),
        "status": "succeeded",
        "model": warm.identity(),
        **found,
        "metrics": {
            "decode_ms": stages.get("decode", 0.0),
            "infer_ms": stages.get("infer", 0.0),
            "total_ms": elapsed_ms(began),
            "cold_start": cold,
            "cache": "hit" if hit else "miss",
        },
        "disclaimer": classification.DISCLAIMER,
    }
    facts = {
        **header_facts(header),
        "cache": answer["metrics"]["cache"],
        "cold": cold,
        "model": warm.card.sha256[:12],
        **noted,
    }
    return Outcome(answer, {**(warm.stages if cold else {}), **stages}, facts)


def header_facts(header: decoding.Header) -> dict[str, Any]:
    """Say of an image what a log may have."""
    return {"pixels": header.pixels, "format": header.format}


def _classify(
    body: bytes,
    header: decoding.Header,
    warm: runtime.LoadedModel,
    chosen: settings.Settings,
    top_k: int | None,
    with_cam: bool,
) -> tuple[dict[str, Any], dict[str, float], dict[str, str]]:
    """Decode and run; return what the answer says of the photo, milliseconds by stage, facts."""
    card, asked = warm.card, time.perf_counter()
    cost_bytes = cost.estimate_bytes(header, card.side_px)
    with admission.current().reserve(cost_bytes, chosen.admission_timeout_s) as rung:
        wait_ms, decoding = elapsed_ms(asked), time.perf_counter()
        decoded = decoder_threads.decode(body, card.side_px, card.resize, cost_bytes, chosen)
        decode_ms, inferring = elapsed_ms(decoding), time.perf_counter()
        finding = classification.classify(warm, decoded.pixels)
        infer_ms = elapsed_ms(inferring)
        explanation, drawn = None, dict[str, float]()
        reason = _why_no_map(chosen, rung, finding) if with_cam else ""
        if with_cam and not reason and finding.evidence is not None:
            # what decoding took is free again, and drawing takes less
            drawing, label = time.perf_counter(), finding.predictions[0].label
            explanation = _explanation_document(
                classification.draw_explanation(
                    card, label, finding.evidence, decoded.pixels, header.upright_size
                )
            )
            drawn["explain"] = elapsed_ms(drawing)
    found = {
        "decision": finding.decision,
        "predictions": [prediction._asdict() for prediction in finding.predictions[:top_k]],
        "explanation": explanation,
        **({MISSING: reason} if reason else {}),
        **({WARNINGS: decoded.warnings} if decoded.warnings else {}),
    }
    stages = {"wait": wait_ms, "decode": decode_ms, "infer": infer_ms, **drawn}
    noted = {"rung": rung.name}
    if decoded.ignored:
        noted["profile_ignored"] = decoded.ignored
    return found, stages, noted


def _explanation_document(explanation: classification.Explanation) -> dict[str, Any]:
    """Write an explanation as answers have it, its pictures as data URIs."""
    return {
        "kind": "cam",
        **explanation._asdict(),
        "heatmap": activation_maps.data_uri(explanation.heatmap),
        "overlay": activation_maps.data_uri(explanation.overlay),
    }


def _parse_cached(kept: bytes | None) -> dict[str, Any] | None:
    """Read what a cache kept; what is no answer is none."""
    try:
        found = json.loads(kept or b"null")
    except (ValueError, RecursionError):
        return None
    whole = isinstance(found, dict) and REQUIRED_KEYS <= found.keys() <= {
        *REQUIRED_KEYS,
        MISSING,
        WARNINGS,
    }
    return found if whole and isinstance(found["predictions"], list) else None


def _why_no_map(
    chosen: settings.Settings, rung: Level, finding: classification.Classification
) -> str:
    if not chosen.enable_gradcam:
        return GRADCAM_OFF
    if not rung.overlays:
        return MEMORY_SHORT
    return NO_MAPS if finding.evidence is None else ""


def sha256(content: bytes) -> str:
    """Return the digest by which bytes are known again, in hexadecimal."""
    import hashlib

    return hashlib.sha256(content).hexdigest()


def new_id() -> str:
    return os.urandom(12).hex()


def elapsed_ms(since: float) -> float:
    return round((time.perf_counter() - since) * 1e3, 2)

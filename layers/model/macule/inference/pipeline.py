"""From an image file to its answer: header, memory admission, decoding, runtime, answer cache."""

from __future__ import annotations

import json
import os
import time
from typing import Any, NamedTuple

from macule.caching import answers
from macule.inference import activation_maps, classification, decoder_threads, decoding, runtime
from macule.inference.decoding import cost
from macule.inference.options import DEFAULT_OPTIONS, PredictOptions
from macule.inference.runtime.loading import LoadedModel
from macule.memory import admission
from macule.memory.degradation import Level
from macule.registry.model_card import Card
from macule.settings import Settings

GRADCAM_OFF = "Activation maps are switched off here (ENABLE_GRADCAM=false)."
MEMORY_SHORT = "Memory is short now: activation maps are left out until it recovers."
NO_MAPS = "This model has no activation maps; its card says why."
# Keys of an answer that the cache stores: optional ones, then those of every answer.
MISSING, WARNINGS = "explanation_missing", "warnings"
REASON, PREDICTION_SET = "reason", "prediction_set"
REQUIRED_KEYS = {"decision", "predictions", "explanation"}


class Outcome(NamedTuple):
    """An answer as in docs/api.md, milliseconds by stage, and further facts for the log."""

    answer: dict[str, Any]
    stages: dict[str, float]
    facts: dict[str, Any]


def predict(
    body: bytes,
    chosen: Settings,
    options: PredictOptions = DEFAULT_OPTIONS,
    digest: str = "",
    *,
    read_cache: bool = True,
    write_cache: bool = True,
) -> Outcome:
    """Classify one image file, or return the cached answer.

    Args:
      digest: the sha256 of *body* if known.
      read_cache, write_cache: whether to use a cached answer, and to store the new one.
    Raises: UnsupportedImage, BadImage, ImageTooLarge, CannotFit, Unavailable; BadRequest for a
      coverage that the model's card does not have.
    """
    began = time.perf_counter()
    header = decoder_threads.inspect(body, chosen)
    cold = runtime.loaded() is None
    # before the cache: a process whose model cannot load must not answer
    model = runtime.get_or_load(chosen.model)
    if cold:
        admission.current().reset_baseline()
    classification.check_coverage(model.card, options.coverage_percent)
    cache, key = answers.current() if read_cache or write_cache else None, ""
    if cache:
        maps = options.with_cam and chosen.enable_gradcam
        key = answers.cache_key(digest or sha256(body), model.card.document, *options, maps)
    found = _parse_cached(cache.get(key)) if cache and read_cache else None
    hit, stages, facts = found is not None, dict[str, float](), {"rung": ""}
    if found is None:
        found, stages, facts = _classify(body, header, model, chosen, options)
        if cache and write_cache and found.get(MISSING) != MEMORY_SHORT:
            cache.put(key, json.dumps(found, separators=(",", ":")).encode())
    answer = {
        "id": new_id(),
        "status": "succeeded",
        "model": model.identity(),
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
    about = {"cache": answer["metrics"]["cache"], "cold": cold, "model": model.card.sha256[:12]}
    logged = {**header_facts(header), **about, **facts}
    return Outcome(answer, {**(model.stages if cold else {}), **stages}, logged)


def header_facts(header: decoding.Header) -> dict[str, Any]:
    """Return the facts of an image for the log."""
    return {"pixels": header.pixels, "format": header.format}


def _classify(
    body: bytes,
    header: decoding.Header,
    model: LoadedModel,
    chosen: Settings,
    options: PredictOptions,
) -> tuple[dict[str, Any], dict[str, float], dict[str, str]]:
    """Decode and classify; return the photo's part of the answer, milliseconds by stage, facts."""
    card, asked = model.card, time.perf_counter()
    cost_bytes = cost.estimate_bytes(header, card.side_px)
    with admission.current().reserve(cost_bytes, chosen.admission_timeout_s) as level:
        wait_ms, decode_began = elapsed_ms(asked), time.perf_counter()
        decoded = decoder_threads.decode(body, card.side_px, card.resize, cost_bytes, chosen)
        decode_ms, infer_began = elapsed_ms(decode_began), time.perf_counter()
        result = classification.classify(model, decoded.picture, options.tta)
        infer_ms = elapsed_ms(infer_began)
        explanation, drawn = None, dict[str, float]()
        has_maps = result.activation is not None
        reason = _missing_map_reason(chosen, level, has_maps) if options.with_cam else ""
        if options.with_cam and not reason and result.activation is not None:
            # the decoder's memory is free again, and drawing takes less
            draw_began, label = time.perf_counter(), result.predictions[0].label
            explanation = _explanation_document(
                classification.draw_explanation(
                    card, label, result.activation, decoded.picture, header.upright_size
                )
            )
            drawn["explain"] = elapsed_ms(draw_began)
    verdict = result.verdict
    found = {
        "decision": verdict.decision,
        **({REASON: verdict.reason} if verdict.reason else {}),
        "predictions": [prediction._asdict() for prediction in result.predictions[: options.top_k]],
        **_set_document(card, result, options.coverage_percent),
        "explanation": explanation,
        **({MISSING: reason} if reason else {}),
        **({WARNINGS: decoded.warnings} if decoded.warnings else {}),
    }
    stages = {"wait": wait_ms, "decode": decode_ms, "infer": infer_ms, **drawn}
    facts = {"rung": level.name}
    if decoded.ignored:
        facts["profile_ignored"] = decoded.ignored
    return found, stages, facts


def _set_document(
    card: Card, result: classification.Classification, percent: int | None
) -> dict[str, Any]:
    """Return the prediction set as in answers; nothing if none was requested."""
    if percent is None:
        return {}
    labels = classification.prediction_set(card, result.predictions, percent)
    return {PREDICTION_SET: {"coverage": percent / 100, "labels": list(labels)}}


def _explanation_document(explanation: classification.Explanation) -> dict[str, Any]:
    """Return an explanation as in answers, with its pictures as data URIs."""
    return {
        "kind": "cam",
        **explanation._asdict(),
        "heatmap": activation_maps.data_uri(explanation.heatmap),
        "overlay": activation_maps.data_uri(explanation.overlay),
    }


def _parse_cached(cached: bytes | None) -> dict[str, Any] | None:
    """Parse a cached value; None if it is not a valid answer."""
    try:
        found = json.loads(cached or b"null")
    except (ValueError, RecursionError):
        return None
    known = {*REQUIRED_KEYS, MISSING, WARNINGS, REASON, PREDICTION_SET}
    complete = isinstance(found, dict) and REQUIRED_KEYS <= found.keys() <= known
    return found if complete and isinstance(found["predictions"], list) else None


def _missing_map_reason(chosen: Settings, level: Level, has_maps: bool) -> str:
    if not chosen.enable_gradcam:
        return GRADCAM_OFF
    if not level.overlays:
        return MEMORY_SHORT
    return "" if has_maps else NO_MAPS


def sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def new_id() -> str:
    return os.urandom(12).hex()


def elapsed_ms(since: float) -> float:
    return round((time.perf_counter() - since) * 1e3, 2)

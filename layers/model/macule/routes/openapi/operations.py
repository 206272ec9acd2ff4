"""The OpenAPI entry of each route: one for each line of `macule.functions`."""

from __future__ import annotations

from collections.abc import Mapping

from macule import errors
from macule.routes.openapi import open_inference
from macule.routes.openapi.entry import (
    AUTH_ERRORS,
    BODY_ERRORS,
    HTML,
    IMAGE_ERRORS,
    JSON,
    MEMORY_ERRORS,
    MODEL_ERRORS,
    NOT_FOUND_ERRORS,
    QUOTA_ERRORS,
    SHUTDOWN_ERRORS,
    TEXT,
    Answer,
    Operation,
)

TAGS = {
    "Predictions": "An image in, probabilities out.",
    "Predictions that outlive a request": "Queued predictions: create now, fetch later.",
    "Open Inference Protocol": "For clients of KServe and Triton: version 2, REST.",
    "For operators": "Health, memory and metrics.",
    "The page": "For people with a browser.",
    "About the service": "The model and this API.",
}
PREDICT, LATER, INFERENCE, OPERATORS, PAGE, ABOUT = TAGS

NOT_MODIFIED = Answer("Not modified since the ETag in `If-None-Match`.", {}, ("ETag",))
KEY_ERRORS = errors.KeyInUse, errors.KeyReused
QUEUE_ERRORS = errors.NoWebhooks, errors.QueueFull, errors.QueueUnavailable
FILES = ("text/css", "text/javascript", "image/jpeg")

ALIVE = Operation(
    "health",
    OPERATORS,
    "Is the process alive?",
    "Never loads the model and never waits for it.",
    {200: Answer("The process is alive.", {TEXT: "", JSON: "Health"})},
)
REPORT = Operation(
    "memory",
    OPERATORS,
    "Memory use and limit",
    "All processes of the service together. MB is 2**20 bytes.",
    {200: Answer("The report.", {JSON: "Memory"})},
)
METRICS = Operation(
    "metrics",
    OPERATORS,
    "Counts, gauges and histograms",
    "All processes of the service, in Prometheus's text format; see docs/api.md.",
    {200: Answer("The metrics.", {TEXT: ""})},
)
SPECIFICATION = Operation(
    "openapi",
    ABOUT,
    "This document",
    "OpenAPI 3.1, for this function.",
    {200: Answer("The document.", {JSON: "Document"}, ("ETag", "Vary")), 304: NOT_MODIFIED},
    parameters=("If-None-Match",),
)
NEXT = ("showPrediction", "cancelPrediction")
CLASSIFY = Operation(
    "predict",
    PREDICT,
    "Classify a photo",
    "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP, TIFF, JPEG 2000 and ICO; the first frame. The format "
    "is detected from the bytes, not from the Content-Type. An image that is not skin is also "
    "answered: see `decision`. Answers are cached by content, photos are not: the same photo gets "
    "the cached answer unless `Cache-Control` forbids it. A photo in `instances` (TF Serving, "
    "Vertex AI) is answered in `predictions`; one photo per request.",
    {200: Answer("The prediction.", {JSON: "PredictionOrResponse"}, ("Server-Timing",))},
    IMAGE_ERRORS,
    ("top_k", "explain", "tta", "sets", "Cache-Control"),
    "Photo",
)
# By function, as in `macule.functions`.
FUNCTIONS: Mapping[str, Mapping[str, Operation]] = {
    "predict": {
        "GET /health/": ALIVE,
        "GET /ready/": Operation(
            "ready",
            OPERATORS,
            "Is the model loaded?",
            "Never loads the model and never waits for it; `GET /warmup/` does.",
            {
                200: Answer("Loaded.", {JSON: "Ready"}),
                503: Answer("Not loaded, or draining.", {JSON: "Ready"}, ("Retry-After",)),
            },
        ),
        "GET /memory/": REPORT,
        "GET /metrics": METRICS,
        "GET /warmup/": Operation(
            "warmup",
            OPERATORS,
            "Load the model",
            "Loads the model and runs it once; no-op if it is loaded. For schedulers: "
            "a request without a body to `/` or `/predict/` with `X-Warmup: 1` or "
            "`X-CloudScheduler: true` does the same.",
            {200: Answer("The model is loaded.", {JSON: "Warmup"})},
            MODEL_ERRORS,
        ),
        "GET /model/": Operation(
            "model",
            ABOUT,
            "The model's card",
            "What the model is, how it was trained and how it was evaluated. A remote model is "
            "downloaded first.",
            {200: Answer("The card.", {JSON: "Card"})},
            MODEL_ERRORS,
        ),
        "POST /predict/": CLASSIFY,
        "POST /": CLASSIFY._replace(
            id="predictAtRoot", text="As `POST /predict/`, for platforms with one URL per function."
        ),
        "POST /predictions": Operation(
            "createPrediction",
            LATER,
            "Create a prediction to fetch later",
            "Takes the same body as `POST /predict/` and answers at once with the URL of the "
            "prediction. Invalid images are rejected immediately. A `webhook` gets its events.",
            {
                200: Answer(
                    "The prediction ended within `Prefer: wait=N`, or an earlier request with the "
                    "same Idempotency-Key created it.",
                    {JSON: "Job"},
                    ("Location", "Preference-Applied"),
                    NEXT,
                ),
                202: Answer(
                    "The prediction is queued.",
                    {JSON: "Job"},
                    ("Location", "Preference-Applied", "Retry-After"),
                    NEXT,
                ),
            },
            (*BODY_ERRORS, *KEY_ERRORS, *MEMORY_ERRORS, *QUEUE_ERRORS),
            ("top_k", "explain", "tta", "sets", "Prefer", "Idempotency-Key"),
            "PhotoForLater",
        ),
        "GET /predictions/{id}": Operation(
            "showPrediction",
            LATER,
            "Status and outcome of a prediction",
            "Poll after `Retry-After` seconds until it has ended.",
            {
                200: Answer("The prediction.", {JSON: "Job"}, ("ETag", "Retry-After.maybe")),
                304: NOT_MODIFIED._replace(headers=("ETag", "Retry-After.maybe")),
            },
            (*NOT_FOUND_ERRORS, errors.JobEnded, errors.JobExpired, errors.QueueUnavailable),
            ("id", "If-None-Match"),
        ),
        "POST /predictions/{id}/cancel": Operation(
            "cancelPrediction",
            LATER,
            "Cancel a prediction",
            "Its photo is deleted at once; the outcome of a running prediction is discarded.",
            {200: Answer("The canceled prediction.", {JSON: "Job"})},
            (*NOT_FOUND_ERRORS, errors.JobEnded, errors.JobExpired, errors.QueueUnavailable),
            ("id",),
        ),
        **open_inference.operations(INFERENCE),
        "GET /": Operation(
            "page",
            PAGE,
            "The upload page",
            "In English or Vietnamese: by `lang`, else by `Accept-Language`.",
            {200: Answer("The page.", {HTML: ""}, ("ETag", "Vary")), 304: NOT_MODIFIED},
            parameters=("lang", "Accept-Language", "If-None-Match"),
        ),
        "GET /page/{file}": Operation(
            "pageFile",
            PAGE,
            "A file of the page",
            "Compressed for clients that accept gzip, except the example photo.",
            {200: Answer("The file.", dict.fromkeys(FILES, ""), ("ETag",)), 304: NOT_MODIFIED},
            (errors.NotFound,),
            ("file", "v", "If-None-Match"),
        ),
        "POST /page/": CLASSIFY._replace(
            id="predictAsPage",
            tag=PAGE,
            summary="Classify a photo, for browsers without JavaScript",
            text="The form of the page: the answer or problem of `POST /predict/` as a page.",
            answers={200: Answer("The prediction, as a page.", {HTML: ""}, ("Server-Timing",))},
            errors=(*IMAGE_ERRORS, *AUTH_ERRORS, *QUOTA_ERRORS, *SHUTDOWN_ERRORS),
            parameters=("lang", "top_k", "explain", "tta", "sets", "Cache-Control"),
            problems=HTML,
        ),
        "GET /openapi.json": SPECIFICATION,
        "GET /docs/": Operation(
            "docs",
            ABOUT,
            "This document as a page",
            "Code samples, and forms that send requests from the browser. Readable without "
            "JavaScript.",
            {200: Answer("The page.", {HTML: ""}, ("ETag", "Vary")), 304: NOT_MODIFIED},
            parameters=("If-None-Match",),
        ),
        "GET /docs/{file}": Operation(
            "docsFile",
            ABOUT,
            "A file of the documentation page",
            "Compressed for clients that accept gzip.",
            {
                200: Answer("The file.", dict.fromkeys(FILES[:2], ""), ("ETag", "Vary")),
                304: NOT_MODIFIED,
            },
            (errors.NotFound,),
            ("file.docs", "v", "If-None-Match"),
        ),
    },
    "health": {
        "GET /health/": ALIVE,
        "GET /memory/": REPORT._replace(
            id="reports",
            text=f"{REPORT.text} With `PREDICT_URL` it includes the report of that predict "
            "function, or why there is none.",
        ),
        "GET /metrics": METRICS,
        "GET /": Operation(
            "status",
            OPERATORS,
            "The same report as a page",
            "Without scripts; does not reload itself.",
            {200: Answer("The page.", {HTML: ""})},
        ),
        "GET /openapi.json": SPECIFICATION,
    },
}

"""What each route is for, asks and answers: one entry for each line of functions/*/main.py."""

from __future__ import annotations

from collections.abc import Mapping

from macule.errors import (
    JobEnded,
    JobExpired,
    KeyInUse,
    KeyReused,
    NotFound,
    NoWebhooks,
    QueueFull,
    QueueUnavailable,
)
from macule.routes.openapi import open_inference
from macule.routes.openapi.entry import (
    AUTHENTICATION,
    BODY,
    HTML,
    JSON,
    MEMORY,
    MODEL,
    PHOTO,
    QUOTA,
    SHUTDOWN,
    TEXT,
    UNKNOWN,
    Answer,
    Operation,
)

TAGS = {
    "Predictions": "A photo in, probabilities out.",
    "Predictions that outlive a request": "The same, asked for now and fetched later.",
    "Open Inference Protocol": "The same for clients of KServe and Triton: version 2, over REST.",
    "For operators": "What they and their platforms ask.",
    "The page": "For people with a browser.",
    "About the service": "What it says of itself.",
}
PREDICT, LATER, INFERENCE, OPERATORS, PAGE, ABOUT = TAGS

SAME = Answer("It is the one that `If-None-Match` names.", {}, ("ETag",))
FILES = ("text/css", "text/javascript", "image/jpeg")

ALIVE = Operation(
    "health",
    OPERATORS,
    "Is the process alive?",
    "Never touches the model and never waits for it.",
    {200: Answer("It is.", {TEXT: "", JSON: "Health"})},
)
REPORT = Operation(
    "memory",
    OPERATORS,
    "What memory is used, of what limit",
    "Of all processes of the service together. MB is 2**20 bytes.",
    {200: Answer("The report.", {JSON: "Memory"})},
)
METRICS = Operation(
    "metrics",
    OPERATORS,
    "Counts, gauges and histograms",
    "Of all processes of the service, in Prometheus's text format; docs/api.md says what each is.",
    {200: Answer("The metrics.", {TEXT: ""})},
)
SPECIFICATION = Operation(
    "openapi",
    ABOUT,
    "This document",
    "OpenAPI 3.1, of the function that answers.",
    {
        200: Answer("The document.", {JSON: "Document"}, ("ETag", "Vary")),
        304: SAME,
    },
    parameters=("If-None-Match",),
)
NEXT = ("showPrediction", "cancelPrediction")
CLASSIFY = Operation(
    "predict",
    PREDICT,
    "Classify a photo",
    "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP, TIFF, JPEG 2000 and ICO, the first picture; the bytes "
    "decide, not the Content-Type. What is no skin is an answer too: see `decision`. Answers are "
    "kept by content, photos never: the same photo again is answered from memory, unless "
    "`Cache-Control` says otherwise. Photos in `instances`, as clients of TF Serving and Vertex AI "
    "send them, are answered in `predictions`; one photo a request.",
    {200: Answer("The prediction.", {JSON: "PredictionOrResponse"}, ("Server-Timing",))},
    PHOTO,
    ("top_k", "explain", "Cache-Control"),
    "Photo",
)
# As `macule.functions` has them.
FUNCTIONS: Mapping[str, Mapping[str, Operation]] = {
    "predict": {
        "GET /health/": ALIVE,
        "GET /ready/": Operation(
            "ready",
            OPERATORS,
            "Is the model loaded?",
            "Never loads it and never waits for it; `GET /warmup/` does.",
            {
                200: Answer("It is.", {JSON: "Ready"}),
                503: Answer("It is not, or not yet.", {JSON: "Ready"}, ("Retry-After",)),
            },
        ),
        "GET /memory/": REPORT,
        "GET /metrics": METRICS,
        "GET /warmup/": Operation(
            "warmup",
            OPERATORS,
            "Load the model",
            "Loads the model and runs it once; one that is loaded is left alone. For schedulers: "
            "a request without a body to `/` or `/predict/` with `X-Warmup: 1` or "
            "`X-CloudScheduler: true` does the same.",
            {200: Answer("It is loaded.", {JSON: "Warmup"})},
            MODEL,
        ),
        "GET /model/": Operation(
            "model",
            ABOUT,
            "The model's card",
            "What the model is, how it was made, how it was measured. A model that is elsewhere "
            "is fetched first.",
            {200: Answer("The card.", {JSON: "Card"})},
            MODEL,
        ),
        "POST /predict/": CLASSIFY,
        "POST /": CLASSIFY._replace(
            id="predictAtRoot",
            text="As `POST /predict/`, for platforms that give each function an address.",
        ),
        "POST /predictions": Operation(
            "createPrediction",
            LATER,
            "Ask for a prediction and fetch it later",
            "Takes what `POST /predict/` takes and answers at once with where the prediction "
            "will be. What is no photo is refused at once. With a `webhook` its end is told there.",
            {
                200: Answer(
                    "It has ended within `Prefer: wait=N`, or the same Idempotency-Key made it "
                    "before.",
                    {JSON: "Job"},
                    ("Location", "Preference-Applied"),
                    NEXT,
                ),
                202: Answer(
                    "It is taken in.",
                    {JSON: "Job"},
                    ("Location", "Preference-Applied", "Retry-After"),
                    NEXT,
                ),
            },
            (*BODY, KeyInUse, KeyReused, *MEMORY, NoWebhooks, QueueFull, QueueUnavailable),
            ("top_k", "explain", "Prefer", "Idempotency-Key"),
            "PhotoForLater",
        ),
        "GET /predictions/{id}": Operation(
            "showPrediction",
            LATER,
            "How far a prediction is, and its outcome",
            "Ask again after `Retry-After` seconds until it has ended.",
            {
                200: Answer("How far it is.", {JSON: "Job"}, ("ETag", "Retry-After.maybe")),
                304: Answer(
                    "Nothing has changed since `If-None-Match`.",
                    {},
                    ("ETag", "Retry-After.maybe"),
                ),
            },
            (*UNKNOWN, JobEnded, JobExpired, QueueUnavailable),
            ("id", "If-None-Match"),
        ),
        "POST /predictions/{id}/cancel": Operation(
            "cancelPrediction",
            LATER,
            "End a prediction",
            "Its photo goes at once; one that is being worked on loses its outcome.",
            {200: Answer("It is canceled.", {JSON: "Job"})},
            (*UNKNOWN, JobEnded, JobExpired, QueueUnavailable),
            ("id",),
        ),
        **open_inference.operations(INFERENCE),
        "GET /": Operation(
            "page",
            PAGE,
            "The upload page",
            "In English or Vietnamese: by `lang`, else by `Accept-Language`.",
            {
                200: Answer("The page.", {HTML: ""}, ("ETag", "Vary")),
                304: SAME,
            },
            parameters=("lang", "Accept-Language", "If-None-Match"),
        ),
        "GET /page/{file}": Operation(
            "pageFile",
            PAGE,
            "A file of the page",
            "Compressed for who accepts gzip, but for the example photo.",
            {
                200: Answer("The file.", dict.fromkeys(FILES, ""), ("ETag",)),
                304: SAME,
            },
            (NotFound,),
            ("file", "v", "If-None-Match"),
        ),
        "POST /page/": CLASSIFY._replace(
            id="predictAsPage",
            tag=PAGE,
            summary="Classify a photo, for browsers without JavaScript",
            text="The form of the page: what `POST /predict/` answers, problems too, in words.",
            answers={
                200: Answer(
                    "The prediction, as a page.",
                    {HTML: ""},
                    ("Server-Timing",),
                )
            },
            errors=(*PHOTO, *AUTHENTICATION, *QUOTA, *SHUTDOWN),
            parameters=("lang", "top_k", "explain", "Cache-Control"),
            problems=HTML,
        ),
        "GET /openapi.json": SPECIFICATION,
        "GET /docs/": Operation(
            "docs",
            ABOUT,
            "This document as a page",
            "Samples to copy, and forms that send requests from the browser. Readable without "
            "JavaScript.",
            {
                200: Answer("The page.", {HTML: ""}, ("ETag", "Vary")),
                304: SAME,
            },
            parameters=("If-None-Match",),
        ),
        "GET /docs/{file}": Operation(
            "docsFile",
            ABOUT,
            "A file of that page",
            "Compressed for clients that accept gzip.",
            {
                200: Answer("The file.", dict.fromkeys(FILES[:2], ""), ("ETag", "Vary")),
                304: SAME,
            },
            (NotFound,),
            ("file.docs", "v", "If-None-Match"),
        ),
    },
    "health": {
        "GET /health/": ALIVE,
        "GET /memory/": REPORT._replace(
            id="reports",
            text=f"{REPORT.text} With `PREDICT_URL` the report of that predict function is beside "
            "it, or why there is none.",
        ),
        "GET /metrics": METRICS,
        "GET /": Operation(
            "status",
            OPERATORS,
            "The same report as a page",
            "Without scripts; it does not reload itself.",
            {200: Answer("The page.", {HTML: ""})},
        ),
        "GET /openapi.json": SPECIFICATION,
    },
}

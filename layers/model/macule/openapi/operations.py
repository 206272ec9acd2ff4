"""What each route is for, asks and answers: one entry for each line of functions/*/main.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from macule.errors import (
    BadCard,
    BadImage,
    BadRequest,
    BadSetting,
    BodyTooLarge,
    Busy,
    CannotFit,
    ImageTooLarge,
    JobEnded,
    JobExpired,
    KeyInUse,
    KeyReused,
    Macule,
    MethodNotAllowed,
    ModelUnavailable,
    NoSuchJob,
    NotFound,
    QueueFull,
    QueueUnavailable,
    SlowBody,
    SlowImage,
    UnsupportedImage,
)

JSON, TEXT, HTML = "application/json", "text/plain", "text/html"

Failures = tuple[type[Macule], ...]


class Answer(NamedTuple):
    """What an operation answers when it is no problem.

    `content` maps a media type to the name of its schema, "" for what is no JSON. `headers` come
    beside those of every answer; all names are those of components.json. `links` are the ids of
    operations that take this answer's `id`.
    """

    text: str
    content: Mapping[str, str] = {}
    headers: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


class Operation(NamedTuple):
    """One entry: `id` is the name of a client's function, `errors` what it may raise."""

    id: str
    tag: str
    summary: str
    text: str
    answers: Mapping[int, Answer]
    errors: Failures = ()
    parameters: tuple[str, ...] = ()
    body: str = ""


TAGS = {
    "Predictions": "A photo in, probabilities out.",
    "Predictions that outlive a request": "The same, asked for now and fetched later.",
    "For operators": "What they and their platforms ask.",
    "About the service": "What it says of itself.",
}
PREDICT, LATER, OPERATORS, ABOUT = TAGS

# What every operation may answer, and takes; keys and quotas belong here.
EVERY_ERROR: Failures = (MethodNotAllowed, Macule, BadSetting)
EVERY_HEADER = ("X-Request-Id", "X-Memory-Band", "Cache-Control", "X-Content-Type-Options")
EVERY_PARAMETER = ("X-Request-Id",)

BODY: Failures = (BadRequest, SlowBody, BodyTooLarge, ImageTooLarge, UnsupportedImage, BadImage)
MEMORY: Failures = (Busy, CannotFit)
UNKNOWN: Failures = (NoSuchJob, NotFound)  # an id may have a slash
MODEL: Failures = (ModelUnavailable, BadCard)

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
SPECIFICATION = Operation(
    "openapi",
    ABOUT,
    "This document",
    "OpenAPI 3.1, of the function that answers.",
    {
        200: Answer("The document.", {JSON: "Document"}, ("ETag",)),
        304: Answer("It is the one that `If-None-Match` names.", {}, ("ETag",)),
    },
    parameters=("If-None-Match",),
)
NEXT = ("showPrediction", "cancelPrediction")
PHOTO = Operation(
    "predict",
    PREDICT,
    "Classify a photo",
    "JPEG, PNG, WebP, GIF (first frame), BMP, TIFF, and HEIC where the service has it; the bytes "
    "decide, not the Content-Type. What is no skin is an answer too: see `decision`. Answers are "
    "kept by content, photos never: the same photo again is answered from memory, unless "
    "`Cache-Control` says otherwise.",
    {200: Answer("The prediction.", {JSON: "Prediction"}, ("Server-Timing",))},
    (*BODY, SlowImage, *MEMORY, *MODEL),
    ("top_k", "explain", "Cache-Control"),
    "Photo",
)
# As functions/predict/main.py and functions/health/main.py have them.
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
        "POST /predict/": PHOTO,
        "POST /": PHOTO._replace(
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
            (*BODY, KeyInUse, KeyReused, *MEMORY, QueueFull, QueueUnavailable),
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
        "GET /openapi.json": SPECIFICATION,
        "GET /docs/": Operation(
            "docs",
            ABOUT,
            "This document as a page",
            "Written on the server; it has no scripts and asks for nothing else.",
            {
                200: Answer("The page.", {HTML: ""}, ("ETag", "Content-Security-Policy")),
                304: Answer("It is the one that `If-None-Match` names.", {}, ("ETag",)),
            },
            parameters=("If-None-Match",),
        ),
    },
    "health": {
        "GET /health/": ALIVE,
        "GET /memory/": REPORT._replace(
            id="reports",
            text=f"{REPORT.text} With `PREDICT_URL` the report of that predict function is beside "
            "it, or why there is none.",
        ),
        "GET /": Operation(
            "status",
            OPERATORS,
            "The same report as a page",
            "Without scripts; it does not reload itself.",
            {200: Answer("The page.", {HTML: ""}, ("Content-Security-Policy",))},
        ),
        "GET /openapi.json": SPECIFICATION,
    },
}

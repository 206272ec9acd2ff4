"""The entries of the Open Inference Protocol's routes: a model with its version and without."""

from __future__ import annotations

from collections.abc import Mapping

from macule.errors import NoSuchModel, NotFound
from macule.routes.openapi.entry import JSON, MODEL, PHOTO, Answer, Failures, Operation

BINARY = "application/octet-stream"
NAMED: Failures = (NoSuchModel, NotFound, *MODEL)


def operations(tag: str) -> Mapping[str, Operation]:
    """Describe the routes below /v2."""
    return {
        "GET /v2": Operation(
            "serverMetadata",
            tag,
            "What serves",
            "The name, the version and the extensions that are spoken.",
            {200: Answer("They are.", {JSON: "Server"})},
        ),
        "GET /v2/health/live": Operation(
            "serverLive",
            tag,
            "Is the process alive?",
            "Never touches the model.",
            {200: Answer("It is.", {JSON: "Live"})},
        ),
        "GET /v2/health/ready": Operation(
            "serverReady", tag, "Does it serve?", *_readiness(), errors=MODEL
        ),
        **_model(tag, "/v2/models/{name}", "model", ("name",)),
        **_model(tag, "/v2/models/{name}/versions/{version}", "modelVersion", ("name", "version")),
    }


def _model(tag: str, path: str, prefix: str, named: tuple[str, ...]) -> dict[str, Operation]:
    """Describe the three routes of a model at *path*; *prefix* begins their ids."""
    return {
        f"GET {path}": Operation(
            f"{prefix}Metadata",
            tag,
            "What goes in, and what comes out",
            "Names, datatypes and shapes of the model's tensors.",
            {200: Answer("They are.", {JSON: "ModelMetadata"})},
            NAMED,
            named,
        ),
        f"GET {path}/ready": Operation(
            f"{prefix}Ready", tag, "Does the model serve?", *_readiness(), NAMED, named
        ),
        f"POST {path}/infer": Operation(
            f"{prefix}Infer",
            tag,
            "Classify one image",
            "One input: `image`, BYTES of an encoded photo, or `pixels`, FP32 or UINT8. A tensor "
            "may be binary, behind the JSON; `Inference-Header-Content-Length` has its length.",
            {
                200: Answer(
                    "The outputs; those that were asked for in binary stand behind the JSON.",
                    {JSON: "InferResponse", BINARY: ""},
                    ("Server-Timing", "Inference-Header-Content-Length.maybe"),
                )
            },
            (*PHOTO, NoSuchModel, NotFound),
            (*named, "Inference-Header-Content-Length", "Cache-Control"),
            "Tensors",
        ),
    }


def _readiness() -> tuple[str, dict[int, Answer]]:
    return "Asking loads the model.", {200: Answer("It does.", {JSON: "Readiness"})}

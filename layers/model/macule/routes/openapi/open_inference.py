"""The OpenAPI entries of the Open Inference Protocol, for models with and without version."""

from __future__ import annotations

from collections.abc import Mapping

from macule import errors
from macule.routes.openapi.entry import (
    IMAGE_ERRORS,
    JSON,
    MODEL_ERRORS,
    Answer,
    Failures,
    Operation,
)

BINARY = "application/octet-stream"
NAMED: Failures = (errors.NoSuchModel, errors.NotFound, *MODEL_ERRORS)


def operations(tag: str) -> Mapping[str, Operation]:
    """Describe the routes below /v2."""
    return {
        "GET /v2": Operation(
            "serverMetadata",
            tag,
            "Server metadata",
            "Name, version and supported extensions.",
            {200: Answer("The metadata.", {JSON: "Server"})},
        ),
        "GET /v2/health/live": Operation(
            "serverLive",
            tag,
            "Is the process alive?",
            "Never loads the model.",
            {200: Answer("The process is alive.", {JSON: "Live"})},
        ),
        "GET /v2/health/ready": Operation(
            "serverReady", tag, "Is the service ready?", *_readiness(), errors=MODEL_ERRORS
        ),
        **_model(tag, "/v2/models/{name}", "model", ("name",)),
        **_model(tag, "/v2/models/{name}/versions/{version}", "modelVersion", ("name", "version")),
    }


def _model(tag: str, path: str, prefix: str, named: tuple[str, ...]) -> dict[str, Operation]:
    """Describe the three routes of a model at *path*; *prefix* starts their ids."""
    return {
        f"GET {path}": Operation(
            f"{prefix}Metadata",
            tag,
            "Model metadata",
            "Names, datatypes and shapes of the model's tensors.",
            {200: Answer("The metadata.", {JSON: "ModelMetadata"})},
            NAMED,
            named,
        ),
        f"GET {path}/ready": Operation(
            f"{prefix}Ready", tag, "Is the model ready?", *_readiness(), NAMED, named
        ),
        f"POST {path}/infer": Operation(
            f"{prefix}Infer",
            tag,
            "Classify one image",
            "One input: `image`, BYTES of an encoded image, or `pixels`, FP32 or UINT8. A tensor "
            "may be binary, after the JSON; `Inference-Header-Content-Length` is the length of "
            "the JSON.",
            {
                200: Answer(
                    "The outputs; binary outputs follow the JSON.",
                    {JSON: "InferResponse", BINARY: ""},
                    ("Server-Timing", "Inference-Header-Content-Length.maybe"),
                )
            },
            (*IMAGE_ERRORS, errors.NoSuchModel, errors.NotFound),
            (*named, "Inference-Header-Content-Length", "Cache-Control"),
            "Tensors",
        ),
    }


def _readiness() -> tuple[str, dict[int, Answer]]:
    return "Loads the model.", {200: Answer("Ready.", {JSON: "Readiness"})}

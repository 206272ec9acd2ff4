"""Optional packages: which are missing, and how to install them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from macule import __version__


class Extra(NamedTuple):
    """A package, its extra in layers/model/pyproject.toml, and a module that it installs.

    `bundle_extra` is its name among the extras of infra/limits.toml; "" if no bundle has it.
    """

    package: str
    extra: str
    module: str
    bundle_extra: str = ""


EXTRAS: Mapping[str, Extra] = {
    extra.package: extra
    for extra in (
        Extra("gunicorn", "serve", "gunicorn"),
        Extra("redis", "queue", "redis", "redis"),
        Extra("celery", "queue", "celery"),
        Extra("opentelemetry-sdk", "otel", "opentelemetry.sdk", "otel"),
        Extra(
            "opentelemetry-exporter-otlp-proto-http",
            "otel",
            "opentelemetry.exporter.otlp.proto.http",
            "otel",
        ),
        Extra("boto3", "s3", "boto3", "s3"),
        Extra("google-cloud-storage", "gs", "google.cloud.storage", "gs"),
        Extra("pi-heif", "heic", "pi_heif"),
        Extra("pydicom", "dicom", "pydicom", "dicom"),
        Extra("pyarrow", "parquet", "pyarrow"),
        Extra("jinja2", "convert", "jinja2"),
        Extra("matplotlib", "convert", "matplotlib"),
        Extra("litert-quantizer", "convert", "litert_quantizer"),
        Extra("tensorflow-cpu", "convert", "tensorflow"),
        Extra("tf-keras", "convert", "tf_keras"),
    )
}


def missing_message(what: str, *packages: str) -> str:
    """Return the message that *what* needs a missing one of *packages*; "" if all are installed."""
    return next((install_message(what, name) for name in packages if not is_installed(name)), "")


def is_installed(package: str) -> bool:
    """Return whether a package is installed, without importing it."""
    from importlib.util import find_spec

    try:
        return find_spec(EXTRAS[package].module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def install_message(what: str, package: str) -> str:
    """Return one line that *what* needs *package*, and how to install it."""
    extra = EXTRAS[package]
    steps = f"run `pip install './layers/model[{extra.extra}]'`"
    if extra.extra == "convert":
        steps = "run `make tools`, then `.venv-dev/bin/macule`,"
    steps += " in a checkout of macule, elsewhere install the wheel's file with its extra: "
    steps += f"`pip install './macule-{__version__}-py3-none-any.whl[{extra.extra}]'`"
    if extra.bundle_extra:
        steps += f', or for a bundle set extras = ["{extra.bundle_extra}"] in infra/limits.toml'
    return f"{what} needs the package {package}, which is not installed: {steps}"

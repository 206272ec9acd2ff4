"""The table of limits: read, validated, and converted to the service's variables."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "limits.toml")
MB = 2**20
EXTRAS = ("redis", "otel", "dicom", "s3", "gs")
BANDS = ("loaded", "predicting", "critical", "oom_imminent")


class Function(NamedTuple):
    """The limits of one instance of a function; `bands` are shares of its memory, 0 to 1."""

    name: str
    memory_mb: int
    cpu: float
    concurrency: int
    max_instances: int
    threads: int
    timeout_s: int
    grace_s: int
    body_mb: int
    bands: Mapping[str, float]
    extras: tuple[str, ...] = ()  # packages in addition to those of every bundle

    def variables(self, most_bytes: int | None = None) -> dict[str, str]:
        """Return these limits as settings; *most_bytes* is the largest image a platform accepts."""
        body_bytes = self.body_mb * MB
        return {
            "WEB_CONCURRENCY": "1",
            "THREADS": str(self.threads),
            # a running request ends by then, whatever stops the service
            "GRACEFUL_TIMEOUT_S": str(min(self.grace_s, self.timeout_s)),
            "MAX_IMAGE_BYTES": str(min(body_bytes, most_bytes or body_bytes)),
            "MEMORY_BANDS": ",".join(f"{self.bands[name]:g}" for name in BANDS),
        }


class Rollout(NamedTuple):
    """How a new version replaces the old one, if the platform supports steps."""

    canary_percent: int
    canary_minutes: int
    alarms: bool
    p99_ms: int


class Limits(NamedTuple):
    """The whole table."""

    name: str
    python: str
    architecture: str
    warmup_minutes: int
    api_keys: bool
    rollout: Rollout
    predict: Function
    health: Function

    def of(self, name: str) -> Function:
        """Return the limits of predict or of health."""
        return self.health if name == "health" else self.predict

    @property
    def python_minor(self) -> str:
        return self.python.rpartition(".")[0]

    @property
    def warmup_cron(self) -> str:
        minutes = self.warmup_minutes
        return "0 * * * *" if minutes == 60 else f"*/{minutes} * * * *"


def read(file: str = FILE) -> Limits:
    """Read the table.

    Raises: ValueError, naming the key, its value and what was expected.
    """
    with open(file, "rb") as stream:
        return parse(tomllib.load(stream))


def parse(table: Mapping[str, Any]) -> Limits:
    """Validate the contents of a file of limits.

    Raises: ValueError, naming the key, its value and what was expected.
    """

    def need(key: str, value: Any, ok: bool, expected: str) -> None:
        if not ok:
            raise ValueError(f"limits.toml: {key} is {value!r}, not {expected}")

    def whole(value: Any, least: int) -> bool:
        return type(value) is int and value >= least

    def function(name: str) -> Function:
        values = dict(table.get(name) or {})
        known = set(Function._fields) - {"name"} - ({"extras"} if name == "health" else set())
        need(name, sorted(values), set(values) == known, f"the keys {sorted(known)}")
        for key in known - {"cpu", "bands", "extras"}:
            need(f"{name}.{key}", values[key], whole(values[key], 1), "a whole number above 0")
        cpu = values["cpu"]
        need(f"{name}.cpu", cpu, type(cpu) in (int, float) and cpu > 0, "a number above 0")
        shares = [values["bands"].get(band, 0) for band in BANDS]
        rising = sorted(set(shares)) == shares and shares[0] > 0 and shares[-1] <= 1
        need(f"{name}.bands", shares, rising, f"rising shares above 0, at most 1, of {BANDS}")
        extras = values.setdefault("extras", [])
        named = isinstance(extras, list) and all(extra in EXTRAS for extra in extras)
        need(f"{name}.extras", extras, named, f"a list of some of {EXTRAS}")
        values["extras"] = tuple(extra for extra in EXTRAS if extra in extras)
        return Function(name, **values)

    def rollout() -> Rollout:
        values = dict(table.get("rollout") or {})
        known = set(Rollout._fields)
        need("rollout", sorted(values), set(values) == known, f"the keys {sorted(known)}")
        percent, alarms = values["canary_percent"], values["alarms"]
        share = whole(percent, 0) and percent < 100
        need("rollout.canary_percent", percent, share, "a whole number from 0 to 99")
        need("rollout.alarms", alarms, type(alarms) is bool, "true or false")
        for key in ("canary_minutes", "p99_ms"):
            need(f"rollout.{key}", values[key], whole(values[key], 1), "a whole number above 0")
        return Rollout(**values)

    python, minutes = str(table.get("python")), table.get("warmup_minutes", 0)
    parts = python.split(".")
    need("python", python, len(parts) == 3 and all(map(str.isdigit, parts)), "like 3.13.5")
    architecture = str(table.get("architecture"))
    need("architecture", architecture, architecture in ("x86_64", "arm64"), "x86_64 or arm64")
    need("warmup_minutes", minutes, whole(minutes, 1) and 60 % minutes == 0, "a part of 60")
    keys = table.get("api_keys")
    need("api_keys", keys, type(keys) is bool, "true or false")
    name = str(table.get("name"))
    need("name", name, bool(re.fullmatch("[a-z][a-z0-9]*", name)), "a lower-case word")
    return Limits(
        name,
        python,
        architecture,
        minutes,
        keys is True,
        rollout(),
        function("predict"),
        function("health"),
    )

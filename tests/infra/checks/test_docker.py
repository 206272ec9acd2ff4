"""The image of the wheel and compose.yaml: each mistake is rejected."""

import pytest
from support.mutants import complaints

IMAGE, COMPOSE = "Dockerfile", "compose.yaml"
SLIPS = {
    "another Python": (
        IMAGE,
        "FROM python:<<python>>-slim\nCOPY --from",
        "FROM python:3-slim\nCOPY --from",
        "FROM is",
    ),
    "root": (IMAGE, "USER 10001", "USER root", "USER is 'root'"),
    "packages without hashes": (IMAGE, " --require-hashes", "", "by its hash"),
    "a package of that name from an index": (
        IMAGE,
        "COPY dist/macule-*.whl ./",
        "COPY README.md ./",
        "the wheel is not copied",
    ),
    "another command": (IMAGE, '["macule", "serve"]', '["macule", "worker"]', "CMD is"),
    "no health check": (IMAGE, "HEALTHCHECK", "LABEL", "HEALTHCHECK is None"),
    "a file system to write to": (COMPOSE, "read_only: true", "read_only: false", "read_only is"),
    "capabilities": (COMPOSE, "cap_drop: [ALL]", "cap_drop: [CHOWN]", "cap_drop is"),
    "more rights than it started with": (
        COMPOSE,
        '"no-new-privileges:true"',
        '"no-new-privileges:false"',
        "security_opt is",
    ),
    "root in the queue": (COMPOSE, 'user: "999:1000"', 'user: "0:0"', "which is root"),
    "another memory": (
        COMPOSE,
        "mem_limit: <<predict.memory_mb>>m",
        "mem_limit: <<predict.memory_mb + 1>>m",
        "mem_limit is",
    ),
    "swap": (
        COMPOSE,
        "memswap_limit: <<predict.memory_mb>>m",
        "memswap_limit: <<predict.memory_mb * 2>>m",
        "memswap_limit is",
    ),
    "no time to stop": (COMPOSE, "stop_grace_period: ", "stop_grace_period: 1", "grace_period is"),
    "other limits": (COMPOSE, 'THREADS: "', 'THREADS: "1', "THREADS is"),
    "a port for everybody": (COMPOSE, '"127.0.0.1:8080:8080"', '"8080:8080"', "is open"),
    "a queue for everybody": (
        COMPOSE,
        "    volumes: [",
        '    ports: ["127.0.0.1:6379:6379"]\n    volumes: [',
        "queue: port",
    ),
    "a queue that forgets": (COMPOSE, "noeviction", "allkeys-lru", "may be lost"),
    "a queue in memory alone": (
        COMPOSE,
        '--appendonly, "yes"',
        '--appendonly, "no"',
        "may be lost",
    ),
}


@pytest.mark.parametrize(("path", "text", "slip", "expected"), SLIPS.values(), ids=SLIPS)
def test_a_mutant_is_rejected(path: str, text: str, slip: str, expected: str) -> None:
    """A template with one mistake is rejected, and the complaint names it."""
    found = complaints(path, text, slip)

    assert any(expected in complaint for complaint in found), found

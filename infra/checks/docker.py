"""The image of the wheel, and compose.yaml, which runs it with its queue."""

from __future__ import annotations

import json
from collections.abc import Iterator

import yaml

from infra import platforms
from infra.checks.given import differ, instructions
from infra.limits import Limits

BOUND = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
LASTING = {"--appendonly", "yes", "--maxmemory-policy", "noeviction"}


def image(text: str, table: Limits) -> Iterator[str]:
    """Check the Dockerfile: the table's Python, hashed pins, the wheel, an unprivileged user."""
    given = instructions(text)
    pythons = {rest.split()[0] for word, rest in given if word == "FROM"}
    if pythons != {f"python:{table.python}-slim"}:
        yield f"Dockerfile: FROM is {sorted(pythons)}, not python:{table.python}-slim"
    installs = [rest for word, rest in given if word == "RUN"]
    if not any("--require-hashes" in rest for rest in installs):
        yield "Dockerfile: no package is installed by its hash"
    if not any("dist/macule-*.whl" in rest for word, rest in given if word == "COPY"):
        yield "Dockerfile: the wheel is not copied"
    last = dict(given)
    yield from differ("Dockerfile", last, {"USER": "10001", "CMD": json.dumps(["macule", "serve"])})
    if "/health/" not in last.get("HEALTHCHECK", ""):
        yield f"Dockerfile: HEALTHCHECK is {last.get('HEALTHCHECK')}; it does not ask /health/"


def compose(text: str, table: Limits) -> Iterator[str]:
    """Check that each container has limits, and that the queue is persistent."""
    services = yaml.safe_load(text)["services"]
    for name, service in services.items():
        yield from differ(name, service, BOUND)
        if str(service.get("user", "10001")).split(":")[0] in ("", "0", "root"):
            yield f"{name}: user is {service['user']}, which is root"
    memory = f"{table.predict.memory_mb}m"
    stop = f"{table.predict.grace_s + platforms.RENDER_STOP_S}s"
    wanted = {"mem_limit": memory, "memswap_limit": memory, "stop_grace_period": stop}
    for name in ("predict", "worker"):
        yield from differ(name, services[name], wanted)
        yield from differ(
            f"{name}: environment", services[name]["environment"], table.predict.variables()
        )
    for name, service in services.items():
        for port in service.get("ports", ()):
            if name != "predict" or not str(port).startswith("127.0.0.1:"):
                yield f"{name}: port {port} is open to other machines"
    if missing := LASTING - set(services["queue"].get("command", ())):
        yield f"queue: the command lacks {sorted(missing)}, so jobs may be lost"

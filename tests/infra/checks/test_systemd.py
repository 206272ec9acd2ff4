"""systemd units: each mistake is rejected."""

import pytest
from support.mutants import complaints

from infra import limits

PREDICT = limits.read().predict
UNIT, WORKER = "infra/systemd/macule.service", "infra/systemd/macule-worker@.service"
SOCKET, KEYS = "infra/systemd/macule.socket", "infra/systemd/keys.conf"
MUTANTS = [
    (UNIT, f"MemoryMax={PREDICT.memory_mb}M", f"MemoryMax={PREDICT.memory_mb + 1}M", "MemoryMax"),
    (UNIT, "MemorySwapMax=0\n", "", "MemorySwapMax is None"),
    (UNIT, "TimeoutStopSec=", "TimeoutStopSec=1 #", "TimeoutStopSec is 1 #"),
    (UNIT, "Restart=always", "Restart=on-failure", "Restart is 'on-failure'"),
    (UNIT, "KillMode=mixed", "KillMode=process", "KillMode is 'process'"),
    (UNIT, "DynamicUser=yes", "DynamicUser=no", "DynamicUser is 'no'"),
    (UNIT, "ProtectSystem=strict", "ProtectSystem=full", "ProtectSystem is 'full'"),
    (UNIT, "Environment=THREADS=", "Environment=THREADS=9", "THREADS is '9"),
    (UNIT, "Environment=GRACEFUL_TIMEOUT_S=", "Environment=GRACE_S=", "no GRACEFUL_TIMEOUT_S"),
    (UNIT, "DATA_DIR=%S/macule", "DATA_DIR=/srv", "no StateDirectory"),
    (WORKER, "MemoryMax=", "MemoryHigh=", "MemoryMax is None"),
    (WORKER, "StateDirectory=macule-worker/%i", "StateDirectory=macule", "no StateDirectory"),
    (SOCKET, "ListenStream=127.0.0.1:8080", "ListenStream=8080", "ListenStream is ['8080']"),
    (SOCKET, "ListenStream=", "ListenDatagram=", "ListenStream is None"),
    (KEYS, "%d/api-keys", "%d/keys", "Environment is"),
    (KEYS, "LoadCredential=", "SetCredential=", "LoadCredential is ':'"),
]


@pytest.mark.parametrize(("path", "text", "slip", "expected"), MUTANTS, ids=lambda part: part[:40])
def test_a_mutant_is_rejected(path: str, text: str, slip: str, expected: str) -> None:
    """A unit with one mistake is rejected, and the complaint names it."""
    found = complaints(path, text, slip)

    assert any(expected in complaint for complaint in found), found

"""The table of limits is read whole, refused with its key, and is what the service keeps to."""

from pathlib import Path

import pytest
from macule import settings

from infra import limits

TABLE = Path(limits.FILE).read_text()


@pytest.mark.parametrize(
    ("line", "wrong", "named"),
    [
        ("memory_mb = 512", "memory_mb = 0", "predict.memory_mb is 0"),
        ("memory_mb = 512", 'memory_mb = "512"', "predict.memory_mb is '512'"),
        ("memory_mb = 512", "memory = 512", "predict is"),
        ("cpu = 1.0", "cpu = -1", "predict.cpu is -1"),
        ("loaded = 0.30", "loaded = 0.75", "predict.bands"),
        ("oom_imminent = 0.98", "oom_imminent = 1.2", "predict.bands"),
        ('python = "3.13.5"', 'python = "3.13"', "python is '3.13'"),
        ('"x86_64"', '"amd64"', "architecture is 'amd64'"),
        ("warmup_minutes = 10", "warmup_minutes = 7", "warmup_minutes is 7"),
        ("canary_percent = 0", "canary_percent = 100", "rollout.canary_percent is 100"),
        ("canary_minutes = 10", "canary_minutes = 0", "rollout.canary_minutes is 0"),
        ("alarms = false", 'alarms = "no"', "rollout.alarms is 'no'"),
        ("p99_ms = 2000", "p99 = 2000", "rollout is"),
        ('name = "macule"', 'name = "My service"', "name is 'My service'"),
    ],
)
def test_a_wrong_limit_is_named(tmp_path: Path, line: str, wrong: str, named: str) -> None:
    """A limit that makes no sense is refused with its key and its value."""
    file = tmp_path / "limits.toml"
    assert line in TABLE
    file.write_text(TABLE.replace(line, wrong, 1))

    with pytest.raises(ValueError, match=f"limits.toml: {named}"):
        limits.read(str(file))


def test_the_service_keeps_to_the_table() -> None:
    """Without any variable, settings are what the table says of predict."""
    assert settings.read({}) == settings.read(limits.read().predict.variables())

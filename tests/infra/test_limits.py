"""The table of limits is validated, and the service uses its values."""

from typing import Any

import pytest
from macule import settings
from support.mutants import changed

from infra import generate, limits, platforms

TABLE = limits.read()
NEWEST = [f"{minor}.{patch}" for minor, patch in platforms.PYTHONS.items()]
BANDS = {"loaded": 0.2, "predicting": 0.5, "critical": 0.8, "oom_imminent": 0.9}


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("predict.memory_mb", 0, "predict.memory_mb is 0"),
        ("predict.memory_mb", "512", "predict.memory_mb is '512'"),
        ("predict.memory", 512, "predict is"),
        ("predict.cpu", -1, "predict.cpu is -1"),
        ("predict.bands", {**BANDS, "loaded": 0.6}, "predict.bands"),
        ("predict.bands", {**BANDS, "oom_imminent": 1.2}, "predict.bands"),
        (
            "predict.extras",
            ["redis", "pandas"],
            "predict.extras is ['redis', 'pandas'], not a list",
        ),
        ("predict.extras", "redis", "predict.extras is 'redis'"),
        ("health.extras", [], "health is"),
        ("python", "3.13", "python is '3.13'"),
        ("architecture", "amd64", "architecture is 'amd64'"),
        ("warmup_minutes", 7, "warmup_minutes is 7"),
        ("api_keys", "yes", "api_keys is 'yes'"),
        ("rollout.canary_percent", 100, "rollout.canary_percent is 100"),
        ("rollout.canary_minutes", 0, "rollout.canary_minutes is 0"),
        ("rollout.alarms", "no", "rollout.alarms is 'no'"),
        ("rollout.p99", 2000, "rollout is"),
        ("name", "My service", "name is 'My service'"),
        ("name", "my_service", "name is 'my_service'"),
    ],
)
def test_a_wrong_limit_is_named(key: str, value: Any, named: str) -> None:
    """An invalid limit is rejected with its key and its value."""
    with pytest.raises(ValueError, match=r"limits\.toml: ") as caught:
        changed({key: value})

    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"predict.memory_mb": 64}, "predict.memory_mb is 64, not 128 to 10240 (Lambda)"),
        ({"health.memory_mb": 127}, "health.memory_mb is 127, not 128 to 10240 (Lambda)"),
        ({"predict.memory_mb": 10241}, "predict.memory_mb is 10241, not 128 to 10240 (Lambda)"),
        ({"predict.timeout_s": 1200}, "predict.timeout_s is 1200, not at most 900 (Lambda)"),
        ({"health.timeout_s": 901}, "health.timeout_s is 901, not at most 900 (Lambda)"),
        ({"predict.grace_s": 296}, "predict.grace_s is 296, not at most 295 (Render)"),
        ({"python": "3.10.1"}, "python is '3.10.1', not 3.12 to 3.14"),
        ({"python": "3.11.9"}, "python is '3.11.9', not 3.12 to 3.14"),
        ({"python": "3.15.0"}, "python is '3.15.0', not 3.12 to 3.14"),
        ({"python": "3.14.99"}, "python is '3.14.99', not a release"),
        ({"warmup_minutes": 2}, "warmup_minutes is 2, not at least 5"),
        ({"name": "a" * 21}, "letters at most (Google)"),
        ({"predict.cpu": 1.5}, "predict.cpu is 1.5, not 0.08 to 1, or one of"),
        ({"predict.cpu": 0.05}, "predict.cpu is 0.05, not 0.08 to 1"),
        (
            {"predict.cpu": 0.5, "predict.memory_mb": 512, "predict.concurrency": 8},
            "predict.concurrency is 8, not at most 1 with cpu 0.5 (Cloud Run)",
        ),
        (
            {"predict.cpu": 1, "predict.memory_mb": 512, "predict.concurrency": 1001},
            "predict.concurrency is 1001, not at most 1000",
        ),
        (
            {"predict.cpu": 1, "predict.memory_mb": 4097},
            "predict.memory_mb is 4097, not 128 to 4096, which cpu 1 goes with (Cloud Run)",
        ),
        (
            {"predict.cpu": 4, "predict.memory_mb": 1024},
            "predict.memory_mb is 1024, not 2048 to 16384, which cpu 4 goes with (Cloud Run)",
        ),
        (
            {"health.cpu": 0.4, "health.memory_mb": 513},
            "health.memory_mb is 513, not 128 to 512, which cpu 0.4 goes with (Cloud Run)",
        ),
        ({"predict.max_instances": 1001}, "predict.max_instances is 1001, not at most 1000"),
    ],
    ids=str,
)
def test_limits_beyond_a_platform_are_rejected(changes: dict[str, Any], named: str) -> None:
    """`make infra` names the key, value, bound and platform, and writes nothing."""
    table = changed(changes)

    with pytest.raises(ValueError, match=r"limits\.toml: ") as caught:
        generate.outputs(table)

    assert named in str(caught.value)


@pytest.mark.parametrize("python", NEWEST)
def test_every_common_python_is_accepted(python: str) -> None:
    """The newest patch of each Python is accepted, and the one after it is unknown."""
    minor, _, patch = python.rpartition(".")

    assert generate.outputs(changed({"python": python}))
    with pytest.raises(ValueError, match="is the newest known of"):
        generate.outputs(changed({"python": f"{minor}.{int(patch) + 1}"}))


def test_the_tables_variables_are_settings() -> None:
    """gunicorn gives a function the settings of the table."""
    table = changed({"predict.threads": 77, "predict.body_mb": 3, "predict.bands": BANDS})
    chosen = settings.read(table.predict.variables())

    assert chosen.threads == 77
    assert chosen.max_image_bytes == 3 * 2**20
    assert chosen.memory_bands == tuple(BANDS.values())
    assert chosen.graceful_timeout_s == min(TABLE.predict.grace_s, TABLE.predict.timeout_s)


def test_the_order_of_extras_is_fixed() -> None:
    """The same extras in another order make the same bundle."""
    one, other = (
        changed({"predict.extras": names}) for names in (["s3", "redis"], ["redis", "s3"])
    )

    assert one.predict.extras == other.predict.extras == ("redis", "s3")

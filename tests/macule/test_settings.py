"""The environment, read once."""

import pytest
from macule import settings
from macule.errors import BadSetting


def test_defaults_are_sensible() -> None:
    """With nothing set, 10 MB images on port 8080, 1 worker, as many threads as may wait."""
    chosen = settings.read({})

    assert chosen.max_image_bytes == 10 * 2**20
    assert (chosen.bind, chosen.workers, chosen.threads) == ("0.0.0.0:8080", 1, 256)
    assert chosen.enable_gradcam is True
    assert chosen.allowed_origins == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("MAX_IMAGE_BYTES", "10 MB"),
        ("MAX_IMAGE_BYTES", "0"),
        ("MAX_IMAGE_PIXELS", "-1"),
        ("ENABLE_GRADCAM", "maybe"),
        ("ALLOWED_ORIGINS", "app.example"),
        ("ADMISSION_TIMEOUT_S", "nan"),
        ("MEMORY_LIMIT_MB", "½"),
        ("THREADS", "²"),
        ("PREDICT_URL", "predict.example"),
        ("PREDICT_URL", "ftp://predict.example"),
        ("PREDICT_URL", "https://"),
        ("PREDICT_URL", "https://predict.example:http"),
        ("PREDICT_URL", "https://predict.example@evil.example"),
        ("PREDICT_URL", "https://predict.example/?a=b"),
        ("PREDICT_URL", "https://predict.example/a\tb"),
        ("PREDICT_TIMEOUT_S", "soon"),
        ("MODEL_SHA256", "abc"),
    ],
)
def test_a_value_that_cannot_be_read_is_named(name: str, value: str) -> None:
    """The error names the variable, its value and what was expected."""
    with pytest.raises(BadSetting, match=f"{name}=.*is not ") as caught:
        settings.read({name: value})

    assert repr(value) in str(caught.value)


def test_an_address_keeps_its_path_and_loses_its_last_slash() -> None:
    """PREDICT_URL may lie below a path."""
    url = settings.read({"PREDICT_URL": "https://predict.example:8443/below/"}).predict_url

    assert url == "https://predict.example:8443/below"


def test_platforms_say_their_memory() -> None:
    """Lambda's and Cloud Functions' own variables are read."""
    lambda_mb = settings.read({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128"}).platform_memory_mb
    google_mb = settings.read({"FUNCTION_MEMORY_MB": "256"}).platform_memory_mb

    assert (lambda_mb, google_mb) == (128, 256)


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"MODEL_URI": "s3://a/b", "MODEL_DIR": "weights"}, "both set"),
        ({"MODEL_SHA256": "0" * 64}, "without MODEL_URI"),
        ({"MODEL_URI": "ftp://files.example/secret"}, "begins with ftp://"),
        ({"MODEL_URI": "http://files.example/a?sig=secret"}, "begins with http://"),
        ({"MODEL_URI": "https://me:secret@files.example/a"}, "user name"),
        ({"MODEL_URI": "https://[secret"}, "is no address"),
        ({"MODEL_URI": "s3:///secret"}, "names no host or bucket"),
    ],
)
def test_a_model_s_place_is_checked_at_the_start(environ: dict[str, str], reason: str) -> None:
    """What cannot be meant stops the start, and what may be a secret is not repeated."""
    with pytest.raises(BadSetting, match=reason) as caught:
        settings.read(environ)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://:se-cret@h", "redis://:se-cret@h:x", "redis://u:se-cret/7@h"]
)
def test_an_address_of_redis_is_checked_without_showing_its_password(url: str) -> None:
    """Another scheme and what is no port stop the start; no text has the password."""
    with pytest.raises(BadSetting, match=r"^REDIS_URL ") as caught:
        settings.read({"REDIS_URL": url})

    assert "cret" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_model_has_one_place() -> None:
    """Nothing is the model in use, MODEL_DIR a folder, MODEL_URI what is fetched and how."""
    pin = "0A" * 32
    environ = {"MODEL_URI": "http://localhost:80/a", "MODEL_SHA256": pin, "MODEL_TIMEOUT_S": "2"}

    assert settings.read({}).model is None
    assert settings.read({"MODEL_DIR": "weights"}).model == "weights"
    assert settings.read(environ).model == settings.Source(
        "http://localhost:80/a", pin.lower(), 2.0, None
    )

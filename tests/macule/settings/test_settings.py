"""The environment is read once: accepted values, and errors of one line."""

import base64
from pathlib import Path

import pytest
from macule import settings
from macule.errors import BadSetting

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
HASH = "0" * 64
# By variable: values that are wrong, or that would fail later.
WHOLE = ["x", "-1", "+1", "1.5", "1e3", "1_000", "1 000", "½", "²", "١", "0x10", "9" * 30]
SECONDS = ["soon", "-1", "nan", "inf", "1e1", "1_0", "1,5", "10s", "3601", "1.2.3"]
ADDRESSES = [
    "predict.example",
    "//predict.example",
    "ftp://predict.example",
    "https://",
    "https://:443",
    "https://predict.example:http",
    "https://predict.example:0",
    "https://predict.example:70000",
    "https://user:hu-sh9@predict.example",
    "https://predict.example@evil.example",
    "https://predict.example/?a=b",
    "https://predict.example/#a",
    "https://predict.example/a\tb",
    "https://predict.example/a b",
    "https://prédict.example",
    "https://[::1",
    "https:\\predict.example",
]
REDIS = [
    "host",
    "host:6379",
    "http://:hu-sh9@host",
    "redis://",
    "redis:///0",
    "redis://:hu-sh9@",
    "redis://:hu-sh9@host:x",
    "redis://:hu-sh9@host:0",
    "redis://:hu-sh9@host:70000",
    "redis://user:hu-sh9/7@host",
    "redis://user:hu#sh9@host",
    "redis://:hu-sh9@host/cache",
    "redis://:hu-sh9@host/0/1",
    "redis://:hu-sh9@host/-1",
    "redis://:hu-sh9@host/0#a",
    "redis://:hu-sh9@host?db=x",
    "redis://:hu-sh9@host?db=1",
    "redis://:hu-sh9@host?unknown=1",
    "redis://:hu-sh9@host?socket_timeout=60",
    "redis://:hu-sh9@host?ssl_cert_reqs=none",
    "rediss://:hu-sh9@host?ssl_cert_reqs=perhaps",
    "rediss://:hu-sh9@host?ssl_ca_certs=",
    "rediss://:hu-sh9@host?ssl_ca_certs=a&ssl_ca_certs=b",
    "redis://:hu sh9@host",
    "redis://:hu-sh9é@host",
]
BAD = {
    "PORT": [*WHOLE, "http", "65536", ":8080", "0.0.0.0:8080"],
    "WORKER_METRICS_PORT": [*WHOLE, "65536", "0.0.0.0:9100"],
    "HOST": [
        "unix:/run/macule.sock",
        "fd://3",
        "http://localhost",
        "0.0.0.0:8080",
        "[::1]:8080",
        "[::1",
        "::g",
        "a b",
        "-a",
        "a/b",
        "*",
        "é",
    ],
    "WEB_CONCURRENCY": [*WHOLE, "0", "257", "auto"],
    "THREADS": [*WHOLE, "0", "10001"],
    "GRACEFUL_TIMEOUT_S": [*WHOLE, "0", "3601"],
    "WORKER_TIMEOUT_S": [*WHOLE, "0", "3601"],
    "MAX_IMAGE_BYTES": [*WHOLE, "0", "10 MB", "10MB"],
    "MAX_IMAGE_PIXELS": [*WHOLE, "0"],
    "MAX_WAITING": WHOLE,
    "MAX_JOBS": [*WHOLE, "0"],
    "MAX_JOBS_MB": [*WHOLE, "0", "64MB"],
    "MAX_REQUESTS": [*WHOLE, "0"],
    "RECYCLE_MB": [*WHOLE, "0"],
    "MEMORY_LIMIT_MB": [*WHOLE, "0", "512MB"],
    "CACHE_MB": WHOLE,
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": ["x", "0"],
    "FUNCTION_MEMORY_MB": ["x", "0"],
    "ADMISSION_TIMEOUT_S": SECONDS,
    "BODY_TIMEOUT_S": [*SECONDS, "0", "0.0"],
    "DECODE_TIMEOUT_S": [*SECONDS, "0", "0.0"],
    "PREDICT_TIMEOUT_S": [*SECONDS, "0"],
    "MODEL_TIMEOUT_S": [*SECONDS, "0"],
    "DRAIN_S": SECONDS,
    "CACHE_TTL_S": ["forever", "0", "0.5", "1e3", "2592001"],
    "JOB_TTL_S": ["forever", "0", "0.5", "1e3", "2592001"],
    "ENABLE_GRADCAM": ["maybe", "2", "tru"],
    "WEBHOOK_LOOPBACK": ["maybe"],
    "LOG_ADDRESSES": ["maybe"],
    "LOG": ["xml", "json,text"],
    "LOG_LEVEL": ["loud", "10", "info,debug"],
    "FUNCTION_TARGET": ["both", "predict,health"],
    "MEMORY_BANDS": ["0.3", "0.3,0.7,0.88", "0.7,0.3,0.88,0.98", "0,1,2,3", "a,b,c,d", "0_3,1"],
    "ALLOWED_ORIGINS": [
        "app.example",
        "https://",
        "https://app.example/path",
        "https://app.example, https://b.example/a",
        "https://app.example https://b.example",
        "https://app.example?a",
        "https://user@app.example",
        "https://app.example:x",
        "https://*.app.example:70000",
        "ws://app.example",
        "null",
        ",",
    ],
    "PREDICT_URL": ADDRESSES,
    "OTEL_EXPORTER_OTLP_ENDPOINT": ADDRESSES,
    "PREDICT_KEY": ["hu sh9", "hu\x7fsh9", "hu-sh9é"],
    "API_KEYS": [
        ",",
        " , ,",
        "hu-sh9",
        f"al ice:{HASH}",
        f"alice:{HASH[1:]}",
        f"a:{HASH},b:{HASH}",
        "~nobody-of-that-name/keys",
    ],
    "QUOTA": [",", "60", "60/fortnight", "0/minute", "1/minute,2/minute", "x/second", "-1/day"],
    "TRUSTED_PROXIES": [",", "proxy.example", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0-10.0.0.9"],
    "REDIS_URL": [*REDIS, "unix://", "unix:///run/x?db=a", "unix:///run/x?path=a"],
    "BROKER_URL": [*REDIS, "unix:///run/redis.sock", "amqp://:hu-sh9@host", "memory://"],
    "WEBHOOK_SECRETS": [
        ",",
        "hu-sh9",
        "whsec_",
        "whsec_hu-sh9",
        "whsec_c2Vj",
        SECRET.removeprefix("whsec_"),
        f"{SECRET},hu-sh9",
    ],
    "MODEL_SHA256": ["abc", HASH + "0", "g" * 64],
    "MODEL_URI": [
        "ftp://files.example/hu-sh9",
        "http://files.example/a?sig=hu-sh9",
        "https://me:hu-sh9@files.example/a",
        "https://[hu-sh9",
        "https://files.example:x/hu-sh9",
        "https://files.example/hu sh9",
        "s3:///hu-sh9",
        "~nobody-of-that-name/model",
    ],
    "MODEL_DIR": ["~nobody-of-that-name/model"],
    "MODEL_CACHE_DIR": ["~nobody-of-that-name"],
    "DATA_DIR": ["~nobody-of-that-name/data"],
}
CASES = [(name, value) for name, values in BAD.items() for value in values]
GOOD = [
    ("HOST", "::1", "bind", "[::1]:8080"),
    ("HOST", "[::]", "bind", "[::]:8080"),
    ("HOST", "localhost", "bind", "localhost:8080"),
    ("PORT", " 80 ", "bind", "0.0.0.0:80"),
    ("LOG_LEVEL", "WARN", "log_level", "WARNING"),
    ("LOG_LEVEL", "Warning", "log_level", "WARNING"),
    ("LOG_LEVEL", "fatal", "log_level", "CRITICAL"),
    ("LOG_LEVEL", "err", "log_level", "ERROR"),
    ("ENABLE_GRADCAM", "Off", "enable_gradcam", False),
    ("DRAIN_S", "0", "drain_s", 0.0),
    ("DECODE_TIMEOUT_S", ".5", "decode_timeout_s", 0.5),
    ("ADMISSION_TIMEOUT_S", "0", "admission_timeout_s", 0.0),
    ("CACHE_MB", "0", "cache_mb", 0),
    ("MEMORY_BANDS", ".1, 0.2, 0.3, 1", "memory_bands", (0.1, 0.2, 0.3, 1.0)),
    ("ALLOWED_ORIGINS", "*", "allowed_origins", ("*",)),
    ("ALLOWED_ORIGINS", "https://App.example/", "allowed_origins", ("https://app.example",)),
    ("ALLOWED_ORIGINS", "https://a.example:443", "allowed_origins", ("https://a.example",)),
    ("ALLOWED_ORIGINS", "http://[::1]:3000", "allowed_origins", ("http://[::1]:3000",)),
    ("REDIS_URL", "redis://u:p%2Fw@h:1/15", "redis_url", "redis://u:p%2Fw@h:1/15"),
    ("REDIS_URL", "unix:///run/x.sock?db=2", "redis_url", "unix:///run/x.sock?db=2"),
    ("BROKER_URL", "rediss://h?ssl_cert_reqs=none", "broker_url", "rediss://h?ssl_cert_reqs=none"),
    ("DATA_DIR", "~/data", "data_dir", str(Path.home() / "data")),
    ("MODEL_DIR", "~", "model", str(Path.home())),
    ("API_KEYS", "~/keys", "api_keys", str(Path.home() / "keys")),
    ("QUOTA", ",60/minute,", "quota", settings.read({"QUOTA": "60/minute"}).quota),
]


def test_defaults_are_sensible() -> None:
    """By default images have 10 MB, the port is 8080, with 1 worker and all waiting threads."""
    chosen = settings.read({})

    assert chosen.max_image_bytes == 10 * 2**20
    assert (chosen.bind, chosen.workers, chosen.threads) == ("0.0.0.0:8080", 1, 256)
    assert chosen.enable_gradcam is True
    assert chosen.allowed_origins == ()


@pytest.mark.parametrize(("name", "value"), CASES)
def test_an_unusable_value_is_rejected_in_one_line(name: str, value: str) -> None:
    """The line names variable and expectation; also the value, unless it may be secret."""
    with pytest.raises(BadSetting) as caught:
        settings.read({name: value})
    message = str(caught.value)

    assert message.startswith(name)
    assert message.isprintable()
    assert "sh9" not in message
    assert (
        name in settings.SECRET_VARIABLES or set("@?") & set(value) or repr(value)[:60] in message
    )
    assert caught.value.__suppress_context__ or not caught.value.__context__


def test_every_setting_has_invalid_values_here() -> None:
    """A new setting needs an entry in this list; paths are not validated."""
    read = set[str]()

    class Asked(dict[str, str]):
        def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
            read.add(name)
            return default

    settings.read(Asked())

    assert read == set(BAD)
    assert len(CASES) >= 200


@pytest.mark.parametrize(("name", "value", "field", "meant"), GOOD)
def test_common_spellings_are_accepted(name: str, value: str, field: str, meant: object) -> None:
    """Unambiguous spellings are accepted."""
    assert getattr(settings.read({name: value}), field) == meant


def test_a_long_value_is_shortened() -> None:
    """A file pasted into a variable does not fill the log."""
    with pytest.raises(BadSetting) as caught:
        settings.read({"THREADS": "many " * 100_000})

    assert len(str(caught.value)) < 300


def test_an_empty_value_counts_as_unset() -> None:
    """Templates set unused variables to an empty string."""
    assert settings.read(dict.fromkeys(BAD, " ")) == settings.read({})


def test_a_url_keeps_its_path_without_the_last_slash() -> None:
    """PREDICT_URL may have a path."""
    url = settings.read({"PREDICT_URL": "https://predict.example:8443/below/"}).predict_url

    assert url == "https://predict.example:8443/below"


def test_memory_of_platforms_is_read() -> None:
    """Variables of Lambda and Cloud Functions are read."""
    lambda_mb = settings.read({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128"}).platform_memory_mb
    google_mb = settings.read({"FUNCTION_MEMORY_MB": "256"}).platform_memory_mb

    assert (lambda_mb, google_mb) == (128, 256)


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"MODEL_URI": "s3://a/b", "MODEL_DIR": "weights"}, "both set"),
        ({"MODEL_SHA256": HASH}, "without MODEL_URI"),
    ],
)
def test_contradicting_settings_are_rejected(environ: dict[str, str], reason: str) -> None:
    """Settings that contradict each other prevent the start."""
    with pytest.raises(BadSetting, match=reason):
        settings.read(environ)


def test_a_model_has_one_source() -> None:
    """Without a setting it is the active model, MODEL_DIR is a folder, MODEL_URI a download."""
    pin = "0A" * 32
    environ = {"MODEL_URI": "http://localhost:80/a", "MODEL_SHA256": pin, "MODEL_TIMEOUT_S": "2"}

    assert settings.read({}).model is None
    assert settings.read({"MODEL_DIR": "weights"}).model == "weights"
    assert settings.read(environ).model == settings.Source(
        "http://localhost:80/a", pin.lower(), 2.0, None
    )

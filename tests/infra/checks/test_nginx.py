"""nginx in front of macule: each mistake is rejected."""

import pytest
from support.mutants import complaints

PATH = "infra/nginx/macule.conf"
MUTANTS = [
    ("client_max_body_size ", "client_max_body_size 1m; #", "client_max_body_size is 1m"),
    ("client_max_body_size ", "client_max_body_size 0; #", "client_max_body_size is 0"),
    ("proxy_read_timeout ", "proxy_read_timeout 1s; #", "proxy_read_timeout is '1s'"),
    ("keepalive_timeout 4s", "keepalive_timeout 60s", "keepalive_timeout is 60 s"),
    ("    keepalive_timeout 4s;", "", "keepalive_timeout is 75 s"),
    ("server 127.0.0.1:8080", "server 127.0.0.1:8081", "server is '127.0.0.1:8081'"),
    ("proxy_http_version 1.1", "proxy_http_version 1.0", "proxy_http_version is '1.0'"),
    ('Connection ""', "Connection close", "Connection is 'close'"),
    ("Host $host", "Host $http_host", "Host is '$http_host'"),
    ("$remote_addr;", "$http_x_forwarded_for;", "X-Forwarded-For is '$http"),
    ("proxy_request_buffering on", "proxy_request_buffering off", "buffering is 'off'"),
    ("        proxy_max_temp_file_size 0;", "", "proxy_max_temp_file_size is None"),
    ("gzip off", "gzip on", "gzip is 'on'"),
]


@pytest.mark.parametrize(("text", "slip", "expected"), MUTANTS, ids=lambda part: part[:40])
def test_a_mutant_is_rejected(text: str, slip: str, expected: str) -> None:
    """A site with one mistake is rejected, and the complaint names it."""
    found = complaints(PATH, text, slip)

    assert any(expected in complaint for complaint in found), found

"""Whether whoever asks may: by a key where there are keys, and as often as a quota allows."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from macule import settings
from macule.errors import BadSetting

if TYPE_CHECKING:
    from macule.http.messages import Request


def authenticate(request: Request) -> str:
    """Find whose key the request carries, where keys are asked for.

    Raises: Unauthorized, Forbidden. BadSetting: it fails every route alike, and says so.
    """
    source = settings.current().api_keys
    # a browser asks by OPTIONS, without a key, whether it may send one
    asked = request.method != "OPTIONS" and _route_name(request) not in request.exemptions.keys
    if not source or request.caller or not asked:
        return request.caller
    from macule.security import api_keys

    return api_keys.key_store(source).authenticate(request.headers)


def check_rate_limit(request: Request) -> dict[str, str]:
    """Count what costs against the caller's quota; return the headers that say what is left.

    Raises: QuotaExceeded.
    """
    chosen, methods = settings.current(), request.routes.get(request.route, {})
    if not chosen.quota or request.method != "POST" or "POST" not in methods:
        return {}
    if _route_name(request) in request.exemptions.quotas:
        return {}
    from macule.security import rate_limits

    who = f"key {request.caller}" if request.caller else _address(request, chosen)
    return rate_limits.rate_limiter(chosen.quota, chosen.redis_url).take(who)


def logged_address(request: Request) -> str:
    """Return the client's address where LOG_ADDRESSES asks for it, else "".

    Raises: nothing: an unusable setting has failed the request already, and the log says why.
    """
    with suppress(BadSetting):
        chosen = settings.current()
        return _address(request, chosen) if chosen.log_addresses else ""
    return ""


def _address(request: Request, chosen: settings.Settings) -> str:
    from macule.security import client_address

    forwarded = request.headers.get("x-forwarded-for", "")
    return client_address.identify(request.address, forwarded, chosen.trusted_proxies)


def _route_name(request: Request) -> str:
    method = "GET" if request.method == "HEAD" else request.method
    return f"{method} {request.route}"

"""Authentication and rate limits of a request."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from macule import settings
from macule.errors import BadSetting

if TYPE_CHECKING:
    from macule.http.messages import Request


def authenticate(request: Request) -> str:
    """Return the name of the request's API key; the current caller if no key is required.

    Raises: Unauthorized, Forbidden; BadSetting, on every route.
    """
    source = settings.current().api_keys
    # browsers send the CORS preflight (OPTIONS) without a key
    is_public = request.method == "OPTIONS" or _route_name(request) in request.exemptions.keys
    if not source or request.caller or is_public:
        return request.caller
    from macule.security import api_keys

    return api_keys.key_store(source).authenticate(request.headers)


def check_rate_limit(request: Request) -> dict[str, str]:
    """Count a POST against the caller's quota; return the RateLimit headers.

    Raises: QuotaExceeded.
    """
    chosen, methods = settings.current(), request.routes.get(request.route, {})
    if not chosen.quota or request.method != "POST" or "POST" not in methods:
        return {}
    if _route_name(request) in request.exemptions.quotas:
        return {}
    from macule.security import rate_limits

    caller = f"key {request.caller}" if request.caller else _address(request, chosen)
    return rate_limits.rate_limiter(chosen.quota, chosen.redis_url).take(caller)


def logged_address(request: Request) -> str:
    """Return the client's address if LOG_ADDRESSES is set, else "".

    An invalid setting is not raised here: the request has failed with it already.
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

"""`python -m infra.serve`: the server of `macule serve`, with the limits of limits.toml."""

from __future__ import annotations

import sys

from infra import limits


def main() -> None:
    """Run gunicorn in this process; arguments are gunicorn's own."""
    from macule import settings
    from macule.errors import BadSetting
    from macule.server import __main__ as server

    try:
        bounds = limits.read().of(settings.read().function)
    except (BadSetting, ValueError) as error:
        sys.exit(f"macule: {error}")
    variables = {**bounds.variables(), "WORKER_TIMEOUT_S": str(bounds.timeout_s)}
    for name, value in variables.items():
        settings.set_default(name, value)  # the operator's settings stay
    server.main()


if __name__ == "__main__":
    main()

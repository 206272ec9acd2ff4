"""`python -m macule.server`: gunicorn, unless a setting cannot be used; then one line says so.

gunicorn reads WEB_CONCURRENCY as it is imported: before its configuration could say what is wrong.
"""

from __future__ import annotations

import sys

CONFIGURATION = "python:macule.server.configuration"


def main() -> None:
    """Run gunicorn in this process; arguments are gunicorn's own."""
    from macule import extras, settings
    from macule.errors import BadSetting

    try:
        settings.read()
    except BadSetting as error:
        sys.exit(f"macule: {error}")
    if fault := extras.missing_message("the server", "gunicorn"):
        sys.exit(f"macule: {fault}")
    settings.unset_if_empty("WEB_CONCURRENCY")  # what is empty is not set; gunicorn disagrees
    from gunicorn.app.wsgiapp import run

    sys.argv[1:1] = ["-c", CONFIGURATION]
    run()


if __name__ == "__main__":
    main()

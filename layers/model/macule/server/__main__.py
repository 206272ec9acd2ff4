"""`python -m macule.server`: check the settings, then run gunicorn.

gunicorn reads WEB_CONCURRENCY on import, before its configuration could report an invalid value.
"""

from __future__ import annotations

import sys

CONFIGURATION = "python:macule.server.configuration"


def main() -> None:
    """Run gunicorn in this process with gunicorn's own arguments."""
    from macule import extras, settings
    from macule.errors import BadSetting

    try:
        settings.read()
    except BadSetting as error:
        sys.exit(f"macule: {error}")
    if fault := extras.missing_message("the server", "gunicorn"):
        sys.exit(f"macule: {fault}")
    settings.unset_if_empty("WEB_CONCURRENCY")  # gunicorn would parse an empty value
    from gunicorn.app.wsgiapp import run

    sys.argv[1:1] = ["-c", CONFIGURATION]
    run()


if __name__ == "__main__":
    main()

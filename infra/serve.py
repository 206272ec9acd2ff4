"""`python -m infra.serve`: gunicorn, unless a setting cannot be used; then one line says so.

gunicorn reads WEB_CONCURRENCY as it is imported: before its configuration could say what is wrong.
"""

from __future__ import annotations

import os
import sys

CONFIGURATION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gunicorn.conf.py")


def main() -> None:
    """Run gunicorn in this process; arguments are gunicorn's own."""
    from macule import settings
    from macule.errors import BadSetting

    try:
        settings.read()
    except BadSetting as error:
        sys.exit(f"macule: {error}")
    if not os.environ.get("WEB_CONCURRENCY", "").strip():
        os.environ.pop("WEB_CONCURRENCY", None)  # what is empty is not set; gunicorn disagrees
    from gunicorn.app.wsgiapp import run

    sys.argv[1:1] = ["-c", CONFIGURATION]
    run()


if __name__ == "__main__":
    main()

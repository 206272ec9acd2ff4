"""Exit codes, error lines and settings that several commands share."""

from __future__ import annotations

import sys

from macule import settings
from macule.errors import BadSetting

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130  # argparse exits with 2 too


def print_message(text: str, *context: str) -> None:
    """Write one line to standard error: `macule: CONTEXT: text`."""
    print("macule", *context, text, sep=": ", file=sys.stderr)


def read_settings(model_dir: str | None) -> settings.Settings:
    """Read the settings; *model_dir* from the command line overrides their model.

    Raises: BadSetting, also if the model of the settings does not exist.
    """
    from macule.server import startup

    chosen = settings.read()
    if model_dir:
        return chosen._replace(model=model_dir)
    for fault in filter(None, startup.model_faults(chosen)):
        raise BadSetting(fault)
    return chosen

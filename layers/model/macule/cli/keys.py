"""The command that creates API keys and webhook secrets: `key`."""

from __future__ import annotations

import argparse

from macule.cli.console import OK, print_message
from macule.errors import BadRequest


def create_key(options: argparse.Namespace) -> int:
    """Print a new API key with its entry for API_KEYS, or a webhook secret."""
    from macule.security import api_keys

    if (options.what == "webhook") != (options.name is None):
        raise BadRequest("Use `macule key new NAME`, or `macule key webhook` without a name.")
    if options.what == "webhook":
        print_message("a secret for WEBHOOK_SECRETS and for the receiver of the webhooks:", "key")
        print(api_keys.create_webhook_secret())
        return OK
    key, pair = api_keys.create_key(options.name)
    print_message("the key, which is not stored, and its entry for API_KEYS or its file:", "key")
    print(f"{key}\n{pair}")
    return OK

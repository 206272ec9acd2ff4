"""Commands that select the model to serve: `use`, `publish` and `rollback`."""

from __future__ import annotations

import argparse

from macule.cli.console import OK
from macule.registry import local


def use(options: argparse.Namespace) -> int:
    """Select a model for the next start, and print the current one."""
    if options.back:
        local.roll_back()
    elif options.folder:
        local.activate(options.folder)
    folder, card = local.active_folder(), local.find(None).card
    print(f"{card.name} {card.version} ({card.precision}, {card.sha256[:12]}) from {folder}")
    return OK


def publish(options: argparse.Namespace) -> int:
    """Run a model once, then upload it and point an alias to it."""
    from macule.cli import plan
    from macule.registry import publish

    plan.measure(options.folder)  # a model that cannot run is not published
    address = publish.publish(options.folder, options.target, options.alias)
    print(f"{options.alias} names {address}")
    return OK


def rollback(options: argparse.Namespace) -> int:
    """Point an alias to the previous model."""
    from macule.registry import publish

    print(f"{options.alias} names {publish.rollback(options.target, options.alias)}")
    return OK

"""The health function, where platforms look for it; its routes are in `macule.functions`."""

from macule.functions.health import app, handler, health

__all__ = ["app", "handler", "health"]

"""The predict function, where platforms look for it; its routes are in `macule.functions`."""

from macule.functions.predict import app, handler, predict

__all__ = ["app", "handler", "predict"]

"""macule: a skin-lesion classifier that knows what it costs."""

__version__ = "0.1.0"

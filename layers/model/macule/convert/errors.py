"""The one failure of loading and exporting a model."""


class ConversionError(ValueError):
    """A model that is not converted; the text is one sentence with the way out, for a shell."""

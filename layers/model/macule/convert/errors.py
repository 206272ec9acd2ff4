"""The error of conversion, check and evaluation."""


class BadInput(ValueError):
    """A model or its images cannot be used; the message says what to do."""

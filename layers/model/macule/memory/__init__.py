"""What memory may be used, is used and will be used: limits, admission, degradation, recycling.

Nothing here knows an image format or a model."""

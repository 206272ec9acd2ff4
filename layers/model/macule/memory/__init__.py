"""Memory limits, usage, admission, degradation and recycling; no image format and no model."""

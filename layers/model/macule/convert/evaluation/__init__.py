"""A model on labelled images: metrics, intervals, the check against its card."""

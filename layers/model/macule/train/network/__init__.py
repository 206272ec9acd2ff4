"""The backbone and its ImageNet weights."""

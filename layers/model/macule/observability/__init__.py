"""What the service says of itself: the access log, metrics and traces. No HTTP, no routes."""

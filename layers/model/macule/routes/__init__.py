"""What the service answers: one module per family of routes. Only routes read settings."""

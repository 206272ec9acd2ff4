"""The routes: one module per family. Only routes read settings."""

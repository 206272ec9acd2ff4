"""The `macule` command: one module per family of commands."""

"""Observability: access log, log format, metrics, shared-memory counters, tracing. No HTTP."""

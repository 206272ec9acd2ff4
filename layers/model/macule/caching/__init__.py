"""Answers by content, in memory or in Redis, and single-flight. No HTTP, no model."""

"""Cache of answers by content, in memory or in Redis, and single-flight; no HTTP and no model."""

"""Model sources: folders, buckets and URLs, verified by sha256; no runtime."""

"""Where a model comes from: a folder, a bucket or a URL, checked by sha256. No runtime."""

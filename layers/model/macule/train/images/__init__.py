"""Training images: decoding, near-duplicates, augmentation and cached views."""

"""Shared parts of tests and benches: real servers, misbehaving clients, images and models."""

"""The HTTP protocol: messages, the application, request bodies, uploads, adapters. No routes."""

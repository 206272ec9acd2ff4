"""HTTP: messages, the application, request bodies, uploads and adapters. It knows no route."""

"""Adapters from WSGI, Flask and AWS Lambda to `Request` and `Response`."""

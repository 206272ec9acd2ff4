"""One module per server interface: WSGI, Flask and AWS Lambda events to a `Request` and back."""

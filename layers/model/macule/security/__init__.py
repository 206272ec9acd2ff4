"""API keys, rate limits, client addresses and throttling. It knows no HTTP request."""

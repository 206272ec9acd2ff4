"""API keys, rate limits, client addresses and throttling. Pure: they know no request."""

"""Serving: a model's worker, an HTTP server in front of it, and its clients."""

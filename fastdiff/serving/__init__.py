"""Serving: a model's worker, an HTTP server in front of it, and its clients."""

from fastdiff.serving.client import Client, Frame, Generation

__all__ = ["Client", "Frame", "Generation"]

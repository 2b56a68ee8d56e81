"""Serving: a model's worker, an HTTP server in front of it, and its clients."""

from fastdiff.serving.answers import Frame, Generation
from fastdiff.serving.client import Client

__all__ = ["Client", "Frame", "Generation"]

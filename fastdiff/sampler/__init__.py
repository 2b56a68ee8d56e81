"""`Sampler`, the face of a compiled model: it checks arguments and makes requests of them."""

from fastdiff.sampler.sampler import Sampler

__all__ = ["Sampler"]

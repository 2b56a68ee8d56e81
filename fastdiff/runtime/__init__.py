"""Requests, rows and slots: the engine's tick, tuning, the certificate and the sampler."""

from fastdiff.runtime.cache import Cache
from fastdiff.runtime.choices import Choices
from fastdiff.runtime.content import cache_key
from fastdiff.runtime.loading import load_artifact, tune_or_recall
from fastdiff.runtime.requests import StepInfo
from fastdiff.runtime.sampler import Sampler
from fastdiff.runtime.tuning import tune

__all__ = [
    "Cache",
    "Choices",
    "Sampler",
    "StepInfo",
    "cache_key",
    "load_artifact",
    "tune",
    "tune_or_recall",
]

"""Requests, rows and slots: the engine's tick, tuning, the certificate and the sampler."""

from fastdiff.runtime.engine import Engine
from fastdiff.runtime.requests import StepInfo
from fastdiff.runtime.sampler import Sampler
from fastdiff.runtime.tuning import tune

__all__ = ["Engine", "Sampler", "StepInfo", "tune"]

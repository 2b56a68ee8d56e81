"""Engines that evaluate a network: one file each, one protocol."""

from fastdiff.denoisers.base import Denoiser, Engine, EngineStatus
from fastdiff.denoisers.registry import ENGINES, automatic_engines, engine_status, get_engine

__all__ = [
    "ENGINES",
    "Denoiser",
    "Engine",
    "EngineStatus",
    "automatic_engines",
    "engine_status",
    "get_engine",
]

"""Engines that evaluate a network: one file each, one protocol."""

from fastdiff.denoisers.base import Denoiser, Engine, EngineStatus
from fastdiff.denoisers.by_size import by_size, kind_of, parts_of
from fastdiff.denoisers.registry import ENGINES, engine_status, get_engine

__all__ = [
    "ENGINES",
    "Denoiser",
    "Engine",
    "EngineStatus",
    "by_size",
    "engine_status",
    "get_engine",
    "kind_of",
    "parts_of",
]

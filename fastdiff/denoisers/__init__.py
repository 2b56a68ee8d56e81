"""Engines that evaluate a network: one file each, one protocol."""

from fastdiff.denoisers.base import Denoiser, Engine, EngineStatus
from fastdiff.denoisers.registry import ENGINES, engine_status, get_engine

__all__ = ["ENGINES", "Denoiser", "Engine", "EngineStatus", "engine_status", "get_engine"]

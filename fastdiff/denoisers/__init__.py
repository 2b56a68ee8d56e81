"""Engines that evaluate a network: one file each, one protocol."""

from fastdiff.denoisers.base import Denoiser, Engine, EngineStatus, rows_are_independent, trim
from fastdiff.denoisers.by_size import by_size, kind_of, parts_of
from fastdiff.denoisers.fixed_batch import row_by_row
from fastdiff.denoisers.reference import reference_denoiser
from fastdiff.denoisers.registry import ENGINES, build_denoiser, engine_status, get_engine

__all__ = [
    "ENGINES",
    "Denoiser",
    "Engine",
    "EngineStatus",
    "build_denoiser",
    "by_size",
    "engine_status",
    "get_engine",
    "kind_of",
    "parts_of",
    "reference_denoiser",
    "row_by_row",
    "rows_are_independent",
    "trim",
]

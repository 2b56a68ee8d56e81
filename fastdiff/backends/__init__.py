"""Engines that evaluate a network: one file each, one protocol."""

from fastdiff.backends.base import Denoiser, Engine, EngineStatus, rows_are_independent, trim
from fastdiff.backends.by_size import by_size, kind_of, parts_of
from fastdiff.backends.fixed_batch import row_by_row
from fastdiff.backends.reference import reference_denoiser
from fastdiff.backends.registry import ENGINES, build_denoiser, engine_status, get_engine

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

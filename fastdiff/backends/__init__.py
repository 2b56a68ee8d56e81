"""Backends that evaluate a network: one file each, one protocol."""

from fastdiff.backends.base import Backend, BackendStatus, Denoiser
from fastdiff.backends.by_size import by_size, kind_of, parts_of
from fastdiff.backends.fixed_batch import row_by_row
from fastdiff.backends.reference import reference_denoiser
from fastdiff.backends.registry import BACKENDS, backend_status, build_denoiser, get_backend

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendStatus",
    "Denoiser",
    "backend_status",
    "build_denoiser",
    "by_size",
    "get_backend",
    "kind_of",
    "parts_of",
    "reference_denoiser",
    "row_by_row",
]

"""Tensors between pages that cannot be touched: an access out of bounds ends the process."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import torch

_NO_ACCESS = 0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(tensor: torch.Tensor, at_end: bool) -> torch.Tensor:
    """A contiguous copy that ends (or starts) where memory ends; it is never unmapped."""
    page = mmap.PAGESIZE
    size = tensor.numel() * tensor.element_size()
    body = -(-size // page) * page
    memory = mmap.mmap(-1, body + 2 * page)
    buffer = (ctypes.c_char * len(memory)).from_buffer(memory)
    start = ctypes.addressof(buffer)
    for guard in (start, start + page + body):
        _protect(guard, page)
    offset = page + (body - size if at_end else 0)
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
    return copy.view(tensor.shape).copy_(tensor)


def forbid(tensor: torch.Tensor) -> None:
    """End the process at the next access of a tensor that fills whole pages."""
    start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
    if start % mmap.PAGESIZE or size % mmap.PAGESIZE:
        raise ValueError("a tensor of whole pages is needed")
    _protect(start, size)


def _protect(start: int, size: int) -> None:
    if _libc.mprotect(start, size, _NO_ACCESS):
        raise OSError(ctypes.get_errno(), "mprotect failed")


def call_guarded(function: Callable[..., Any], *arguments: Any, at_end: bool) -> list[Any]:
    """Call a function with guarded copies of its tensors, which are returned."""
    copies = [guarded(a, at_end) if isinstance(a, torch.Tensor) else a for a in arguments]
    function(*copies)
    return copies

from __future__ import annotations

import sys

import pytest
import torch

from fastdiff.errors import Unavailable
from fastdiff.kernels import triton_module


def test_a_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_module, "find_spec", lambda name: None)
    assert "pip install fastdiff-runtime[gpu]" in str(triton_module.status())
    monkeypatch.setitem(sys.modules, "triton.language", None)
    with pytest.raises(Unavailable, match=r"pip install fastdiff-runtime\[gpu\]"):
        _ = triton_module.tl


def test_status_names_what_is_missing_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_module, "missing", lambda: None)
    for interpreting, gpu, runs in (
        (True, False, True),
        (False, True, True),
        (False, False, False),
    ):
        monkeypatch.setattr(triton_module, "interpreting", lambda value=interpreting: value)
        monkeypatch.setattr(torch.cuda, "is_available", lambda value=gpu: value)
        reason = triton_module.status()
        assert reason is None if runs else "finds no GPU" in str(reason)


def test_tensors_elsewhere_are_refused() -> None:
    with pytest.raises(Unavailable, match="got one on meta"):
        triton_module.check_device(torch.empty(1, device="meta"))


def test_other_names_are_not_modules() -> None:
    with pytest.raises(AttributeError, match="no attribute 'jax'"):
        _ = triton_module.jax  # type: ignore[attr-defined]

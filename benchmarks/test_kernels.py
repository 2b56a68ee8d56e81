"""The workloads of ``benchmarks/kernels.py`` under pytest-benchmark."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.kernels import Comparison, comparisons

WORKLOADS = list(comparisons())


@pytest.mark.peer
@pytest.mark.parametrize("side", ["ours", "peer"])
@pytest.mark.parametrize("comparison", WORKLOADS, ids=[w.name for w in WORKLOADS])
def test_kernel(benchmark: Any, comparison: Comparison, side: str) -> None:
    benchmark.group = comparison.name
    benchmark(getattr(comparison, side))

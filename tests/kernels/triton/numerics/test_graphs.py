"""The whole graph executor with the Triton kernels behind torch's operators."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from graph_engines import SOLVERS, graph_engine, make_request, plain, run
from recorded_graph import RecordedDevice

from fastdiff.kernels.noise import triton as noise
from fastdiff.kernels.step import triton as step

from .device import INTERPRETING

KERNELS = {"fill_normal": noise.fill_normal, "gather": step.gather, "step": step.step}


@contextmanager
def triton_operators(calls: list[str]) -> Iterator[None]:
    """Put the Triton kernels behind the operators of CPU tensors; `calls` gets their names."""

    def counted(name: str, kernel: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object) -> None:
            calls.append(name)
            kernel(*args)

        return call

    library = torch.library.Library("fastdiff", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an override, which this is
        for name, kernel in KERNELS.items():
            library.impl(name, counted(name, kernel), "CPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


@pytest.mark.skipif(not INTERPRETING, reason="on a GPU the operators are these kernels anyway")
def test_replayed_triton_kernels_give_the_images_of_the_plain_engine() -> None:
    requests = [make_request(name, rows=2, seed=5, guidance=2.5) for name in sorted(SOLVERS)]
    expected = plain(*requests)
    calls: list[str] = []
    engine = graph_engine(RecordedDevice("late"), rows=4)
    with triton_operators(calls):
        got = run(engine, *requests)
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours, theirs)
    steps = 2 + 2 * 5  # warm-up, capture, and two waves of five
    assert [calls.count(name) for name in KERNELS] == [len(requests), steps, steps]
    calls.clear()
    plain(requests[0])
    assert calls == []

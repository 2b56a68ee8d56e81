"""Chooses the implementation of attention on a GPU, by measuring each class of shapes once."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fastdiff.errors import KernelWarning
from fastdiff.kernels import gpu_kernels

IMPLEMENTATIONS = ("torch", "triton", "cuda")
"""torch's own operator, and the kernels of this package by their language."""

MAX_HEAD_SIZE = 160
"""The largest head size of the kernels, which take multiples of 8."""

Run = Callable[[], object]
Measure = Callable[[Mapping[str, Run]], Mapping[str, float]]
"""A function that takes a call for each implementation, and returns the seconds of each."""

_VECTOR = 8  # 16-bit elements of a 128-bit access
_MAX_GRID = 65535  # in the dimensions that count heads and batches
_ROUNDS, _CALLS = 9, 20


@dataclass(frozen=True)
class ShapeClass:
    """What a choice depends on: all calls of one class use the same implementation.

    Attributes
    ----------
    device, dtype : str
    head_size : int
    heads, queries, keys : int
        B H, L and S, each rounded up to a power of two.
    rows : str
        ``"aligned"`` if they are contiguous and start at multiples of 16 bytes, ``"contiguous"`` if
        they are contiguous but not aligned, else ``"strided"``.
    """

    device: str
    dtype: str
    head_size: int
    heads: int
    queries: int
    keys: int
    rows: str

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor) -> ShapeClass:
        """Return the class of a call."""
        heads, queries, keys = (
            1 << (count - 1).bit_length()
            for count in (q.shape[0] * q.shape[1], q.shape[2], k.shape[2])
        )
        rows = _rows(q, k, v)
        return cls(str(q.device), str(q.dtype), q.shape[3], heads, queries, keys, rows)


@dataclass(frozen=True)
class AttentionChoice:
    """The implementation that a class of shapes uses, and why.

    Attributes
    ----------
    implementation : str
        One of `IMPLEMENTATIONS`.
    seconds : mapping of str to float
        The time of each implementation that can run; empty if there is only one.
    refused : mapping of str to str
        Why the others cannot run.
    """

    implementation: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """The choice in one sentence."""
        others = [f"{name}: {reason}" for name, reason in self.refused.items()]
        if self.seconds:
            best = self.seconds[self.implementation]
            others += [
                f"{name}: {time / best:.2f} times as long"
                for name, time in self.seconds.items()
                if name != self.implementation
            ]
        why = "the fastest" if self.seconds else "the only one that can run"
        return f"{self.implementation}, {why} ({'; '.join(others)})"


_choices: dict[ShapeClass, AttentionChoice] = {}
_measure: ContextVar[Measure | None] = ContextVar("measure", default=None)


def choices() -> dict[ShapeClass, AttentionChoice]:
    """Return what has been chosen in this process."""
    return dict(_choices)


def measure(runs: Mapping[str, Run]) -> dict[str, float]:
    """Return the median seconds of each call on the current CUDA device. The calls take turns.

    They are replayed from a CUDA graph, as the engine does it, so that the time that Python needs
    for a launch has no influence.
    """
    graphs = {name: _capture(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS):
        for name, graph in graphs.items():
            begin, end = _event(), _event()
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end) / 1000 / _CALLS)
    return {name: statistics.median(values) for name, values in times.items()}


def _event() -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return event


def _capture(run: Run) -> torch.cuda.CUDAGraph:
    stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # compiles what must be compiled
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_CALLS):
            run()
    return graph


@contextmanager
def choosing(measure: Measure = measure) -> Iterator[None]:
    """Measure each class of shapes that attention is called with on a GPU and that is new.

    It is meant for one evaluation of the network while that is compiled. It cannot be used during
    the capture of a graph.

    Parameters
    ----------
    measure : callable
        Takes calls by name, and returns seconds by name.
    """
    token = _measure.set(measure)
    try:
        yield
    finally:
        _measure.reset(token)


def refusal(implementation: str, q: Tensor, k: Tensor, v: Tensor, scale: float) -> str | None:
    """Return why an implementation cannot compute a call, or None if it can."""
    if implementation == "torch":
        return None
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"takes float16 and bfloat16, not {q.dtype}"
    if q.shape[3] % _VECTOR or q.shape[3] > MAX_HEAD_SIZE:
        return f"head sizes are multiples of 8 up to {MAX_HEAD_SIZE}, not {q.shape[3]}"
    if q.numel() == 0 or k.numel() == 0:
        return "there is nothing to attend to"
    if max(q.shape[:2]) > _MAX_GRID:
        return f"takes up to {_MAX_GRID} batches and heads, not {tuple(q.shape[:2])}"
    if scale <= 0:
        return f"takes a positive scale, not {scale}"
    rows = _rows(q, k, v)
    if rows == "strided":
        return "takes contiguous rows"
    if rows != "aligned" and implementation == "cuda":
        return "takes rows that start at multiples of 16 bytes"
    return gpu_kernels.refusal("attention", implementation, q.device)


def _trial(implementation: str, run: Run) -> str | None:
    """Compile and run a kernel for a call of these shapes; return the error, or None."""
    if implementation == "torch":  # nothing could replace it
        return None
    try:
        run()
    except Exception as error:  # the errors of compilers and drivers have no narrower base class
        reason = gpu_kernels.described(error)
        warnings.warn(
            f"attention in {implementation} is not used for these shapes: {reason}",
            KernelWarning,
            stacklevel=3,
        )
        return reason
    return None


def choose(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    *,
    measure: Measure = measure,
    refusal: Callable[[str, Tensor, Tensor, Tensor, float], str | None] = refusal,
) -> AttentionChoice:
    """Measure what can compute such a call, and use the fastest for its class from now on.

    Parameters
    ----------
    q, k, v, scale
        An example of the calls, as for `attention`.
    measure, refusal : callable
        How to time calls, and why an implementation cannot compute one. Tests pass their own.
    """
    scale = float(q.shape[3]) ** -0.5 if scale is None else scale
    runs = {name: partial(run, name, q, k, v, scale) for name in IMPLEMENTATIONS}
    reasons = {name: refusal(name, q, k, v, scale) or _trial(name, runs[name]) for name in runs}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    runs = {name: runs[name] for name in runs if name not in refused}
    seconds = measure(runs) if len(runs) > 1 else {}
    fastest = min(runs, key=lambda name: seconds.get(name, 0.0))
    choice = AttentionChoice(fastest, dict(seconds), refused)
    _choices[ShapeClass.of(q, k, v)] = choice
    return choice


def selected(q: Tensor, k: Tensor, v: Tensor, scale: float) -> str:
    """Return the implementation that computes a call on a GPU."""
    if scale <= 0 or q.numel() == 0 or k.numel() == 0:
        return "torch"
    choice = _choices.get(ShapeClass.of(q, k, v))
    if choice is None:
        how = _measure.get()
        choice = choose(q, k, v, scale, measure=how) if how else AttentionChoice("torch")
    return choice.implementation


def run(implementation: str, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Compute attention by one implementation."""
    out = empty_output(q)
    if implementation == "torch":
        result = scaled_dot_product_attention(q, k, v, scale=scale)
        return result if result.stride() == out.stride() else out.copy_(result)
    gpu_kernels.load("attention", implementation)(q, k, v, out, scale)
    return out


def empty_output(q: Tensor) -> Tensor:
    """Return an empty result: (B, H, L, D), a view of contiguous (B, L, H, D)."""
    return torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(
        1, 2
    )


def _rows(*tensors: Tensor) -> str:
    """Describe the rows of all tensors, as in `ShapeClass`."""
    if any(tensor.stride(3) != 1 for tensor in tensors):
        return "strided"
    aligned = all(
        tensor.data_ptr() % 16 == 0 and not any(n % _VECTOR for n in tensor.stride()[:3])
        for tensor in tensors
    )
    return "aligned" if aligned else "contiguous"

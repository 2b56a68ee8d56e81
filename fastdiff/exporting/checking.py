"""Comparing an exported file with what it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastdiff.errors import InvalidArgument, ModelOutputError
from fastdiff.networks.network import Network
from fastdiff.networks.session import first_line, open_session

if TYPE_CHECKING:
    import onnxruntime

MAX_RELATIVE_ERROR = 1e-3
"""Far above what float32 rounding makes of two ways to compute, far below a wrong translation."""

_ROWS = 3  # not as many as are traced

Answer = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Case:
    """What the network answers to some inputs, in NumPy."""

    inputs: dict[str, Any]
    expected: Any
    size: str


def make_cases(network: Network, answer: Answer, dynamic_size: bool = False) -> list[Case]:
    """Run the network on another batch than the traced one, and if its size is open at others."""
    channels, *sizes = network.sample_shape
    shapes = [(network.batch or _ROWS, sizes)]
    if dynamic_size:
        doubled = ([n << (a == axis) for a, n in enumerate(sizes)] for axis in range(len(sizes)))
        shapes += [(1, larger) for larger in doubled]
    cases = []
    for batch, own in shapes:
        resized = replace(network, sample_shape=(channels, *own))
        x, t, conditioning = resized.example(batch, seed=1)
        label = _label(own)
        output = _run(network.name, answer, (x, t, *conditioning.values()), label)
        if list(output.shape[2:]) != own:
            raise InvalidArgument(f"{network.name} returns {_label(output.shape[2:])} for {label}")
        inputs = {"x": x, "t": t, **conditioning}
        cases.append(Case({k: v.numpy() for k, v in inputs.items()}, output.numpy(), label))
    return cases


def _label(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes)) or "one number per channel"


def _run(name: str, answer: Answer, inputs: tuple[torch.Tensor, ...], size: str) -> torch.Tensor:
    try:
        with torch.inference_mode():
            output: torch.Tensor = answer(*inputs)
    except Exception as error:  # whatever the network raises
        raise InvalidArgument(
            f"{name} cannot be exported, since it does not run at {size}: {first_line(error)}"
        ) from error
    return output


def check_output(network: Network, cases: list[Case], path: Path) -> None:
    """Compare what onnxruntime answers with the file `path`."""
    session = open_session(path, network.name)
    for case in cases:
        got = _run_session(network.name, session, case)
        scale = float(np.linalg.norm(case.expected)) or 1.0
        same_shape = got.shape == case.expected.shape
        difference = float(np.linalg.norm(got - case.expected)) / scale if same_shape else np.inf
        if not difference <= MAX_RELATIVE_ERROR:  # NaN is refused too
            raise ModelOutputError(
                f"{network.name} gives another output as exported: relative error "
                f"{difference:.2g} in onnxruntime at {case.size}, expected at most "
                f"{MAX_RELATIVE_ERROR:g}; backend='eager' runs it without export"
            )


def _run_session(name: str, session: onnxruntime.InferenceSession, case: Case) -> Any:
    try:
        return session.run(None, case.inputs)[0]
    except Exception as error:  # onnxruntime's exceptions share no other root
        raise InvalidArgument(
            f"onnxruntime cannot run {name} as exported at {case.size}: {first_line(error)}"
        ) from error

"""Programs of ``torch.export`` as denoisers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from fastdiff.errors import InvalidArgument, InvalidShape
from fastdiff.integrations.conditioning import completed
from fastdiff.networks import MAX_SAMPLE_AXES, Conditioning, Network, SampleShape, WholeTimes

_MOST_ROWS = 32  # that a call is measured with


class ProgramModule(nn.Module):
    """A program of ``torch.export`` as ``module(x, t, **conditioning)``.

    Parameters
    ----------
    program : ExportedProgram
        Its first two inputs are x and t.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        names = [str(name) for name in program.graph_signature.user_inputs]
        by_position, _ = program.call_spec.in_spec.children()
        self.names, self.positional = names, by_position.num_children

    def forward(self, x: Tensor, t: Tensor, **conditioning: Tensor) -> Tensor:
        """Map (B, C, ...) to the prediction."""
        given = {self.names[0]: x, self.names[1]: t, **conditioning}
        first, rest = self.names[: self.positional], self.names[self.positional :]
        output: Tensor = self.program(
            *(given[name] for name in first), **{name: given[name] for name in rest}
        )
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> ProgramModule:
        copied = ProgramModule.__new__(ProgramModule)
        nn.Module.__init__(copied)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own deprecations
            copied.program = copy.deepcopy(self.program, memo)
        copied.names, copied.positional = self.names, self.positional
        return copied

    def train(self, mode: bool = True) -> ProgramModule:
        """Do nothing: a program stays what it was exported as."""
        return self


def from_program(
    program: ExportedProgram,
    sample_shape: SampleShape | None = None,
    conditioning: Mapping[str, Conditioning] | None = None,
) -> Network:
    """Describe a program, whose first two inputs are x and t, the others conditioning by name.

    Parameters
    ----------
    program : ExportedProgram
    sample_shape : tuple of int, optional
        (C, ...), where the program leaves it open.
    conditioning : mapping of str to Conditioning, optional
        Null values and numbers of classes, which a program does not tell.

    Raises
    ------
    InvalidArgument, InvalidShape
        It takes other things than tensors with a batch axis each, or not any number of rows.
    """
    values = _inputs(program)
    if len(values) < 2:
        raise InvalidArgument(f"expected a program that takes x and t, got {', '.join(values)}")
    (_, x), (_, t), *rest = values.items()
    if not 2 <= x.ndim <= MAX_SAMPLE_AXES + 1 or t.ndim != 1:
        raise InvalidShape(
            "expected the program's first inputs to be x (B, C, ...) and t (B,), got shapes "
            f"{tuple(x.shape)} and {tuple(t.shape)}"
        )
    if sample_shape is None:
        if not all(isinstance(size, int) for size in x.shape[1:]):
            raise InvalidArgument("sample_shape= is needed: the program leaves it open")
        sample_shape = tuple(x.shape[1:])
    specs = {name: Conditioning(tuple(value.shape[1:]), value.dtype) for name, value in rest}
    module: nn.Module = ProgramModule(program)
    return Network(
        module if t.dtype.is_floating_point else WholeTimes(module, t.dtype),
        sample_shape,
        completed("the program", specs, conditioning or {}),
        "program",
        batch=_batch(program, x),
    )


def _inputs(program: ExportedProgram) -> dict[str, Tensor]:
    """Return the program's inputs by name, as tensors without values."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    values = {}
    for name in map(str, program.graph_signature.user_inputs):
        value = nodes[name].meta.get("val") if name in nodes else None
        if not isinstance(value, Tensor) or value.ndim == 0:
            raise InvalidArgument(
                f"expected a program that takes tensors with a batch axis, its input {name!r} "
                "is none"
            )
        values[name] = value
    return values


def _batch(program: ExportedProgram, x: Tensor) -> int | None:
    """Return how many rows the program takes; None for any number."""
    rows: Any = x.shape[0]
    if isinstance(rows, int):
        return rows
    allowed = program.range_constraints.get(rows.node.expr)
    # torch states a lower bound of 2 for axes that may be 1.
    if allowed is not None and (allowed.lower > 2 or allowed.upper < _MOST_ROWS):
        raise InvalidArgument(
            f"the program takes {allowed.lower} to {allowed.upper} rows; export it with "
            "{0: torch.export.Dim.DYNAMIC} as the dynamic shape of each input"
        )
    return None

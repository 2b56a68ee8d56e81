"""Conditioning that a short trajectory does not meet, and what the float32 model answers to it.

A trajectory has two values of each input. A bound that a backend has lost, such as that of
``clamp(0, 1)``, shows at values beyond it only. So backends are also asked for the null values of
guidance, for the ends of the ranges that the caller states, and, where a range is not stated, for
values of either sign far from zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdiff.networks import Conditioning, Network

Ask = Callable[[Mapping[str, Tensor]], Tensor]

_FAR = (5.0, 200.0)  # inputs of no stated range are one to two times as large as each
_ROUNDING = 2.0**-8  # the coarsest rounding of an input, bfloat16's, and
_CALM = 0.05  # how far it may move the model's own output for a far value to tell something


@dataclass(frozen=True)
class Probes:
    """Rows of conditioning at one input x and one time.

    Attributes
    ----------
    conditioning : dict of str to Tensor
        (P, ...) each; P may be 0.
    outputs : Tensor
        (P, C or 2C, ...) float32: what the float32 model answers.
    far : Tensor
        (P,) bool: whether a row has values of which nobody has said that they are ever asked for.
    """

    conditioning: dict[str, Tensor]
    outputs: Tensor
    far: Tensor


MOST_PROBES = 1 + 2 * len(_FAR)
NO_PROBES = Probes({}, torch.empty(0), torch.empty(0, dtype=torch.bool))


def make_probes(network: Network, ask: Ask) -> Probes:
    """Ask the float32 model for rows of conditioning.

    Far rows at which its own output is not finite, or moves with every rounding of its input, can
    tell no backend from another and are left out.

    Parameters
    ----------
    network : Network
    ask : callable
        Maps conditioning, (P, ...) each, to the output, (P, C or 2C, ...) float32.
    """
    known, unknown = _null_rows(network), _rows_of_ranges(network)
    if all(spec.value_range is not None for spec in _floats(network).values()):
        known, unknown = known + unknown, []
    rows = known + unknown
    far = torch.arange(len(rows)) >= len(known)
    conditioning = {
        name: torch.cat([value[:0], *(row[name][None] for row in rows)])
        for name, value in network.example(1)[2].items()
    }
    if not rows:
        return Probes(conditioning, torch.empty(0, network.probe(), *network.sample_shape[1:]), far)
    outputs = ask(conditioning)
    keep = ~far | (_calm(ask, conditioning, outputs) if unknown else False)
    return Probes({k: v[keep] for k, v in conditioning.items()}, outputs[keep], far[keep])


def _floats(network: Network) -> dict[str, Conditioning]:
    specs = network.conditioning.items()
    return {name: spec for name, spec in specs if spec.dtype.is_floating_point}


def _null_rows(network: Network) -> list[dict[str, Tensor]]:
    """Return what the unconditional branch of guidance gets, if there is one."""
    if not network.guidable:
        return []
    return [{name: spec.null_value() for name, spec in network.conditioning.items()}]


def _rows_of_ranges(network: Network) -> list[dict[str, Tensor]]:
    """Return rows with floats at the ends of their ranges; neighbours are at opposite ends."""
    floats, generator = _floats(network), torch.Generator().manual_seed(2)
    stated = all(spec.value_range is not None for spec in floats.values())
    others = {name: value[0] for name, value in network.example(1)[2].items()}
    return [
        others | {name: _ends(spec, size, parity, generator) for name, spec in floats.items()}
        for size in (_FAR[:1] if stated else _FAR)
        for parity in (0, 1)
        if floats
    ]


def _ends(spec: Conditioning, magnitude: float, parity: int, generator: torch.Generator) -> Tensor:
    size = magnitude * (1 + torch.rand(spec.shape, generator=generator))
    low, high = (-size, size) if spec.value_range is None else spec.value_range
    places = torch.arange(size.numel()).view(spec.shape)
    upper = (places + parity) % 2 == 0
    return torch.where(upper, high, low).to(spec.dtype)


def _calm(ask: Ask, conditioning: Mapping[str, Tensor], outputs: Tensor) -> Tensor:
    """Return (P,) bool: where a rounding of the floats hardly moves the output."""
    rounded = {
        name: value * (1 + _ROUNDING) if value.dtype.is_floating_point else value
        for name, value in conditioning.items()
    }
    moved = (ask(rounded) - outputs).flatten(1).norm(dim=1)
    calm: Tensor = moved <= _CALM * outputs.flatten(1).norm(dim=1)  # not where either is infinite
    return calm

"""fastdiff's own CPU engine: the network as a plan of fused kernels, replayed by one call.

`fastdiff.denoisers.network` makes the plan, ``csrc/network`` runs it; docs/native-engine.md tells
how, and what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from fastdiff import _native
from fastdiff.denoisers.base import HOST, EngineStatus
from fastdiff.denoisers.network import (
    OUTPUT,
    Arrays,
    Choice,
    Plan,
    bind,
    choose,
    pack,
    plan_network,
)
from fastdiff.errors import ArtifactError, Unavailable
from fastdiff.exporting import Network

_PLAN, _WEIGHTS = "native.json", "native.safetensors"
_ALIGNMENT = 64  # bytes: a cache line, and the longest vector
PLAIN_TILES = "plain arithmetic"
"""What multiplies bfloat16 where no instruction does (csrc/network/tile_math.h)."""


class NativeEngine:
    """Runs U-Nets and diffusion transformers with fastdiff's own kernels."""

    name = "native"
    device = HOST
    precisions = ("float32", "bfloat16")
    reads_onnx = False
    slow_to_build = False

    def status(self) -> EngineStatus:
        return EngineStatus(True, f"{_level()} kernels, CPU")

    def build(self, network: Network, precision: str, blobs: Path | None = None) -> NativeDenoiser:
        if precision == "bfloat16":
            _require_tiles()
        channels = network.probe()
        kept = None if blobs is None else _read(blobs)
        return NativeDenoiser(kept or _made(network, precision), precision, channels)


@dataclass(frozen=True)
class Packed:
    """A plan, and its weights in the order in which the kernels of one level read them.

    Attributes
    ----------
    level : str
    plan : Plan
        Without weights.
    choices : dict of str to Choice
        How each convolution runs.
    weights : dict of str to array
    """

    level: str
    plan: Plan
    choices: dict[str, Choice]
    weights: Arrays


class NativeDenoiser:
    """A plan bound to the caller's tensors, which it reads and writes in place.

    Attributes
    ----------
    packed : Packed
    rows_are_independent : bool
        A row has the same bits whatever else is in its call.
    """

    engine = "native"
    device = HOST
    input_dtype = output_dtype = torch.float32
    rows_are_independent = True

    def __init__(self, packed: Packed, precision: str, output_channels: int) -> None:
        self.packed, self.precision, self.output_channels = packed, precision, output_channels
        self._arena = _aligned(packed.plan.arena_floats)

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        plan = self.bound(x, t, conditioning, out)
        return lambda: plan.run(torch.get_num_threads())

    def bound(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> BoundPlan:
        """Return the calls that evaluate these tensors; the arguments are those of `bind`."""
        floats = len(x) * self.packed.plan.arena_floats
        if len(self._arena) < floats:
            self._arena = _aligned(floats)
        return BoundPlan(self.packed, {"x": x, "t": t, **conditioning, OUTPUT: out}, self._arena)

    def trim(self, batches: Collection[int]) -> None:
        """Let go of the memory of larger calls than those."""
        self._arena = _aligned(max(batches, default=1) * self.packed.plan.arena_floats)

    def save(self, folder: Path, batches: Collection[int]) -> None:
        """Write the plan, and the weights as these kernels read them."""
        packed = self.packed
        described = {
            "level": packed.level,
            "plan": packed.plan.to_json(),
            "choices": {name: asdict(choice) for name, choice in packed.choices.items()},
        }
        (folder / _PLAN).write_text(json.dumps(described))
        save_file(packed.weights, folder / _WEIGHTS)


class BoundPlan:
    """The calls of one evaluation on fixed memory, which lives as long as they do.

    Parameters
    ----------
    packed : Packed
    tensors : mapping of str to Tensor
        Inputs and output by name, (B, ...) each, contiguous.
    arena : array
        At least B times the plan's `arena_floats`.
    """

    def __init__(
        self, packed: Packed, tensors: Mapping[str, Tensor], arena: NDArray[np.float32]
    ) -> None:
        self._plan, self._native = packed.plan, _native.NetworkPlan(packed.level)
        self._keep = (packed, tensors, arena)
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        batch = len(tensors[OUTPUT])
        bind(
            packed.plan, self._native, batch, addresses, arena.ctypes.data, packed.weights,
            packed.choices,
        )  # fmt: skip

    def run(self, threads: int) -> None:
        """Evaluate."""
        self._native.run(threads)

    def profile(self, threads: int, rounds: int = 10) -> dict[str, float]:
        """Return the seconds of each node by its name: the median of some evaluations."""
        self._native.run(threads)
        times = np.median([self._native.profile(threads) for _ in range(rounds)], axis=0)
        return dict(zip((node.name for node in self._plan.nodes), times.tolist(), strict=True))


def _level() -> str:
    """Return the best level of these kernels; `fastdiff.kernels` has heeded FASTDIFF_CPU."""
    return _native.NetworkPlan().level


def _require_tiles() -> None:
    """Refuse what this CPU would compute with plain arithmetic."""
    if _native.NetworkPlan().tile_math == PLAIN_TILES:
        raise Unavailable(
            "native computes bfloat16 only on CPUs with AMX or AVX-512 BF16, and this one has "
            f"{_level()}; use precision='float32'"
        )


def _made(network: Network, precision: str) -> Packed:
    plan, level, threads = plan_network(network), _level(), torch.get_num_threads()
    choices = choose(plan.convolutions, level, threads, precision)
    weights = pack(plan, choices, level, threads)
    return Packed(level, plan.without_weights(), choices, weights)


def _read(folder: Path) -> Packed | None:
    """Return what `NativeDenoiser.save` wrote; None if it is for another level or not there."""
    path = folder / _PLAN
    if not path.exists():
        return None
    try:
        described: dict[str, Any] = json.loads(path.read_text())
        choices = {
            str(name): Choice(str(c["algorithm"]), (int(c["blocks"][0]), int(c["blocks"][1])))
            for name, c in described["choices"].items()
        }
        if described["level"] != _level():
            return None
        plan, weights = Plan.from_json(described["plan"]), load_file(folder / _WEIGHTS)
    except (KeyError, IndexError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ArtifactError(f"{path.name}: not what this engine writes: {error!r}") from error
    return Packed(described["level"], plan, choices, weights)


def _aligned(floats: int) -> NDArray[np.float32]:
    """Return uninitialised memory that begins at a cache line."""
    spare = _ALIGNMENT // 4
    memory = np.empty(floats + spare, np.float32)
    begin = -memory.ctypes.data % _ALIGNMENT // 4
    return memory[begin : begin + floats]

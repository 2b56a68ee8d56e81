"""fastdiff's own CPU backend: the network as a plan of fused kernels, replayed by one call.

`fastdiff.native` makes the plan, ``csrc/network`` runs it; docs/native-backend.md tells
how, and what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from fastdiff._native import NetworkPlan
from fastdiff.backends.base import Backend, BackendStatus, Denoiser, numpy_view
from fastdiff.errors import ArtifactError, Unavailable
from fastdiff.kernels import active_level
from fastdiff.native import (
    OUTPUT,
    Algorithm,
    Arrays,
    Plan,
    bind,
    check_weights,
    choose,
    pack,
    plan_network,
)
from fastdiff.native.planning.rounding import without_rounded
from fastdiff.native.running.aligned import aligned, aligned_empty
from fastdiff.networks import Network

_PLAN, _WEIGHTS = "native.json", "native.safetensors"
PLAIN_TILES = "plain arithmetic"
"""What multiplies bfloat16 or integers where no instruction does (csrc/network/tile_math.h)."""


class NativeBackend(Backend):
    """Runs U-Nets and diffusion transformers with fastdiff's own kernels."""

    name = "native"
    precisions = ("float32", "bfloat16", "int8")
    sources = ("module", "onnx")

    def status(self) -> BackendStatus:
        return BackendStatus(True, f"{active_level()} kernels, CPU")

    def build(self, network: Network, precision: str, blobs: Path | None = None) -> NativeDenoiser:
        _require_instructions(precision)
        channels = network.probe()
        kept = None if blobs is None else _read(blobs)
        if kept is not None:
            _require_fit(kept, network, channels)
        return NativeDenoiser(kept or _made(network, precision), precision, channels)


@dataclass(frozen=True)
class Packed:
    """A plan, and its weights in the order in which the kernels of one level read them.

    Attributes
    ----------
    level : str
    plan : Plan
        Without weights.
    choices : dict of str to Algorithm
        How each convolution runs, and in bfloat16 each attention.
    weights : dict of str to array
    """

    level: str
    plan: Plan
    choices: dict[str, Algorithm]
    weights: Arrays


class NativeDenoiser(Denoiser):
    """Evaluates a plan; each number of rows has its calls ready.

    Attributes
    ----------
    packed : Packed
    """

    backend = "native"
    rows_are_independent = own_threads = True

    def __init__(self, packed: Packed, precision: str, output_channels: int) -> None:
        self.packed, self.precision, self.output_channels = packed, precision, output_channels
        self._replays: dict[int, Replay] = {}
        self._arena = self._scratch = aligned_empty(0)

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        tensors = {"x": x, "t": t, **conditioning, OUTPUT: out}
        views = {name: numpy_view(name, tensor) for name, tensor in tensors.items()}
        replay = self.replay({name: view.shape for name, view in views.items()})

        def run(keep: object = tensors) -> None:
            replay.run(views, torch.get_num_threads())

        return run

    def replay(self, shapes: Mapping[str, Sequence[int]]) -> Replay:
        """Return the calls that evaluate inputs of these shapes, (B, ...) each, by their names."""
        batch = shapes[OUTPUT][0]
        if batch not in self._replays:
            replay = Replay(self.packed, shapes, self._arena, self._scratch)
            if replay.arena is not self._arena or replay.scratch is not self._scratch:
                self._replays.clear()  # so that nothing holds the smaller ones
            self._arena, self._scratch = replay.arena, replay.scratch
            self._replays[batch] = replay
        return self._replays[batch]

    def trim(self, batches: Collection[int]) -> None:
        """Let go of the memory that calls of other sizes have taken."""
        self._replays.clear()
        self._arena = self._scratch = aligned_empty(0)

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


class Replay:
    """The calls of one evaluation on memory of its own, as a CUDA graph has its own buffers.

    What comes and goes is copied, a few thousand numbers: making a hundred calls ready for the
    caller's addresses takes longer than a small network runs.

    Parameters
    ----------
    packed : Packed
    shapes : mapping of str to sequence of int
        Of the inputs and the output, (B, ...) each.
    arena, scratch : array
        Memory to work in, shared with other replays. Where one is too small, the attribute of that
        name is a larger one.
    ranges : dict of str to array, optional
        (2, C) for each convolution, which every run widens to hold its inputs.
    """

    def __init__(
        self,
        packed: Packed,
        shapes: Mapping[str, Sequence[int]],
        arena: NDArray[np.float32],
        scratch: NDArray[np.float32],
        ranges: Arrays | None = None,
    ) -> None:
        plan, batch = packed.plan, shapes[OUTPUT][0]
        labels = {name for name, buffer in plan.buffers.items() if buffer.kind == "labels"}
        self._tensors = {
            name: np.zeros(shape, np.int64 if name in labels else np.float32)
            for name, shape in shapes.items()
        }
        self._plan, self._weights, self._native = plan, packed.weights, NetworkPlan(packed.level)
        self.arena = _at_least(arena, batch * plan.arena_floats)
        bind(
            plan,
            self._native,
            batch,
            {name: array.ctypes.data for name, array in self._tensors.items()},
            self.arena.ctypes.data,
            packed.weights,
            packed.choices,
            ranges,
        )
        self.scratch = _at_least(scratch, self._native.scratch_bytes // 4)
        if len(self.scratch):
            self._native.use_scratch(self.scratch.ctypes.data)

    def run(self, tensors: Mapping[str, NDArray[Any]], threads: int) -> None:
        """Evaluate inputs, by their names, into ``tensors["output"]``."""
        for name, array in self._tensors.items():
            if name != OUTPUT:
                np.copyto(array, tensors[name])
        self._native.run(threads)
        np.copyto(tensors[OUTPUT], self._tensors[OUTPUT])

    def profile(self, threads: int, rounds: int = 10) -> dict[str, float]:
        """Return the seconds of each node by its name: the median of some evaluations."""
        self._native.run(threads)
        times = np.median([self._native.profile(threads) for _ in range(rounds)], axis=0)
        return dict(zip((node.name for node in self._plan.nodes), times.tolist(), strict=True))


def _require_instructions(precision: str) -> None:
    """Refuse what this CPU would compute with plain arithmetic."""
    plan = NetworkPlan(active_level())
    needed = {
        "bfloat16": (plan.tile_math, "AMX or AVX-512 BF16"),
        "int8": (plan.int8_math, "AMX, AVX-512 or AVX2"),
    }
    if precision in needed and needed[precision][0] == PLAIN_TILES:
        raise Unavailable(
            f"native computes {precision} only on CPUs with {needed[precision][1]}, and this one "
            f"has {plan.level}; use precision='float32'"
        )


def _made(network: Network, precision: str) -> Packed:
    plan, level, threads = plan_network(network), active_level(), torch.get_num_threads()
    ranges = _observed(plan, network, level, threads) if precision == "int8" else None
    choices = choose(plan, level, threads, precision)
    weights = pack(plan, choices, level, threads, ranges)
    return Packed(level, without_rounded(plan.without_weights(), choices), choices, weights)


def _observed(plan: Plan, network: Network, level: str, threads: int) -> Arrays:
    """Return the lowest and highest inputs of each convolution along the network's samples."""
    if not network.samples:
        raise Unavailable(
            "native computes int8 with ranges of activations, and none were observed: "
            "fastdiff.compile(model, precision='int8') does that"
        )
    exact = Packed(level, plan, {}, pack(plan, {}, level, threads))
    ranges: Arrays = {
        node.name: np.zeros((2, node.x.shape[-1]), np.float32) for node in plan.convolutions
    }
    x, t, conditioning = network.samples[0]
    out = np.empty((len(x), network.probe(), *x.shape[2:]), np.float32)
    shapes = {name: value.shape for name, value in {"x": x, "t": t, **conditioning}.items()}
    replay = Replay(
        exact, {**shapes, OUTPUT: out.shape}, aligned_empty(0), aligned_empty(0), ranges
    )
    for x, t, conditioning in network.samples:
        tensors = {"x": x, "t": t, **conditioning}
        arrays = {name: numpy_view(name, tensor) for name, tensor in tensors.items()}
        replay.run({**arrays, OUTPUT: out}, threads)
    return ranges


def _read(folder: Path) -> Packed | None:
    """Return what `NativeDenoiser.save` wrote; None if it is for another level or not there."""
    path = folder / _PLAN
    if not path.exists():
        return None
    try:
        described: dict[str, Any] = json.loads(path.read_text())
        choices = {
            str(name): Algorithm(str(c["algorithm"]), (int(c["blocks"][0]), int(c["blocks"][1])))
            for name, c in described["choices"].items()
        }
        if described["level"] != active_level():
            return None
        plan, weights = Plan.from_json(described["plan"]), load_file(folder / _WEIGHTS)
        for name, array in weights.items():
            weights[name] = aligned(array)
    except ArtifactError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ArtifactError(f"{path.name}: not what this backend writes: {error!r}") from error
    return Packed(described["level"], plan, choices, weights)


def _at_least(memory: NDArray[np.float32], floats: int) -> NDArray[np.float32]:
    return memory if len(memory) >= floats else aligned_empty(floats)


def _require_fit(packed: Packed, network: Network, channels: int) -> None:
    """Refuse a plan that takes inputs, an output or weights for larger than they are."""
    x, t, conditioning = network.example(1)
    given = {"x": x, "t": t, **conditioning}
    known = {
        name: ("input" if tensor.is_floating_point() else "labels", tensor.numel())
        for name, tensor in given.items()
    }
    known[OUTPUT] = ("output", channels * x[0, 0].numel())
    inner = {"arena", "weight"}
    buffers = packed.plan.buffers.items()
    taken = {
        name: (buffer.kind, buffer.size) for name, buffer in buffers if buffer.kind not in inner
    }
    if not taken.items() <= known.items():
        raise ArtifactError(f"{_PLAN}: expected inputs and an output of {known}, got {taken}")
    check_weights(packed.plan, packed.weights, packed.choices, NetworkPlan(packed.level).panel)


NATIVE = NativeBackend()

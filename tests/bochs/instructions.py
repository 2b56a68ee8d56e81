"""Instructions that each kind of call of a network executes on the AMX kernels, at a batch of 1.

``python tests/bochs/instructions.py dit-s2`` plans the network in bfloat16, takes the plan to
the emulated machine, whose clock counts instructions, and runs it there on one thread. Weights are
zeros: what is executed does not depend on them. An instruction of AMX that multiplies tiles counts
as one, and takes 16 cycles of a CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from fastdiff import _native
from fastdiff.backends.native import Packed, Replay
from fastdiff.integrations.describing import describe
from fastdiff.native import Algorithm, Plan, plan_network
from fastdiff.native.algorithms import HALVES, TILES
from fastdiff.native.describing import kind
from fastdiff.native.nodes import Attention, Conv, Gather, Node
from fastdiff.native.planning.rounding import without_rounded
from fastdiff.native.running.aligned import aligned_empty
from fastdiff.native.running.binding import expected_arrays
from fastdiff.native.running.shapes import ConvShape

HERE = Path(__file__).resolve().parent
A_SECOND = 1e8  # instructions, as guest/bochsrc sets the clock
FLOPS_OF_A_PRODUCT = 2 * 16 * 16 * 32  # of tiles of bfloat16


def in_bfloat16(plan: Plan) -> dict[str, Algorithm]:
    """Choose bfloat16 wherever it can be, with blocks that did well elsewhere."""
    choices = {}
    for node in plan.nodes:
        if isinstance(node, Conv):
            tiles = ConvShape.of(node).algorithms("bfloat16") == (TILES,)
            choices[node.name] = Algorithm(TILES, (64, 4)) if tiles else Algorithm()
        elif isinstance(node, Attention | Gather):
            choices[node.name] = Algorithm(TILES if isinstance(node, Attention) else HALVES)
    return choices


def zeros(plan: Plan, choices: dict[str, Algorithm], panel: int) -> dict[str, np.ndarray]:
    """Return weights of the sizes that the kernels expect."""
    weights = {}
    for name, (dtype, size) in expected_arrays(plan, choices, panel).items():
        memory = aligned_empty(-(-size * np.dtype(dtype).itemsize // 4))
        memory.fill(0)
        weights[name] = memory.view(dtype)[:size]
    return weights


def count(plan: Plan, choices: dict[str, Algorithm]) -> dict[str, float]:
    """Return the instructions of each node."""
    plan = without_rounded(plan, choices)
    kernels = _native.NetworkPlan()
    packed = Packed(kernels.level, plan, choices, zeros(plan, choices, kernels.panel))
    kinds = {"input", "labels", "output"}
    sizes = {name: b.size for name, b in plan.buffers.items() if b.kind in kinds}
    shapes = {name: (1, size) if size > 1 else (1,) for name, size in sizes.items()}
    replay = Replay(packed, shapes, aligned_empty(0), aligned_empty(0))
    return {name: A_SECOND * s for name, s in replay.profile(threads=1, rounds=3).items()}


def test_count() -> None:
    """Print a table of each plan that came along: pytest runs this in the emulated machine."""
    assert _native.NetworkPlan().level == "amx"
    for path in sorted(HERE.parents[1].glob("*.plan.json")):
        plan = Plan.from_json(json.loads(path.read_text()))
        choices = in_bfloat16(plan)
        instructions = count(plan, choices)
        algorithms = {name: choice.algorithm for name, choice in choices.items()}
        groups: dict[str, list[Node]] = defaultdict(list)
        for node in plan.nodes:
            groups[kind(node, algorithms)].append(node)
        groups["all"] = list(plan.nodes)
        print(
            f"\n{path.name.removesuffix('.plan.json')}: millions, of instructions and of products"
        )
        for name, nodes in groups.items():
            total = sum(instructions[node.name] for node in nodes) / 1e6
            products = sum(node.flops for node in nodes) / FLOPS_OF_A_PRODUCT / 1e6
            made = f"{products:9.3f}" if name.endswith(("all", TILES)) else ""
            print(f"{name:20} {len(nodes):4} nodes {total:9.3f} {made}")


def main() -> int:
    """Plan the networks here and count there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--work", metavar="FOLDER", help="of emulate.py")
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="such as dit-s2, or digits")
    options = parser.parse_args()
    command = [sys.executable, str(HERE / "emulate.py")]
    command += ["--work", options.work] if options.work else []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            plan = plan_network(describe(name)[0]).without_weights()
            path = Path(folder, f"{name}.plan.json")
            path.write_text(json.dumps(plan.to_json()))
            command += ["--file", str(path)]
        test = str(Path(__file__).resolve().relative_to(HERE.parents[1]))
        return subprocess.run([*command, "--", "-q", "-s", test]).returncode


if __name__ == "__main__":
    sys.exit(main())

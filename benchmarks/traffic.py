"""What a solver step moves and launches on a GPU, by counting: no GPU is needed, none is claimed.

``python -m benchmarks.traffic --write docs/gpu-evidence.md`` prints and writes the tables.
diffusers' side is counted from the operators that torch dispatches in its own loop; fastdiff's from
the fields that the fused step must read and write.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.marks import replace_figures
from fastdiff.records import BATCH_ROW, TABLE_ROW

SHAPE = (8, 4, 64, 64)
#: Published memory bandwidths in GB/s (NVIDIA's data sheets of the SXM and PCIe cards).
BANDWIDTHS = {"A100 80 GB SXM": 2039, "H100 SXM": 3350, "B200": 8000, "L4": 300, "RTX 4090": 1008}
BEGIN, END = "<!-- figures: traffic -->\n", "<!-- /figures: traffic -->"


class Launches(TorchDispatchMode):
    """Counts what torch dispatches: each operator that is no view is a kernel on a GPU.

    Attributes
    ----------
    count : int
        Operators with elements to compute.
    moved : int
        Bytes of their tensor arguments and results; those of one element do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        storages = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        is_view = all(r.untyped_storage().data_ptr() in storages for r in results)
        writes = "_" in func.__name__.split(".")[0][-1:] or not is_view
        large = [t for t in [*tensors, *results] if t.numel() > 1]
        if writes and large and "empty" not in func.__name__:
            self.count += 1
            self.moved += sum(t.numel() * t.element_size() for t in large)
        return result


def diffusers_step(scheduler: Any, guided: bool) -> tuple[int, int]:
    """Count launches and bytes of one step beside the network, as the pipelines write it, fp16."""
    generator = torch.Generator().manual_seed(0)
    scheduler.set_timesteps(20)
    latents = torch.randn(SHAPE, generator=generator).half()
    branches = 2 if guided else 1
    output = torch.randn(branches * SHAPE[0], *SHAPE[1:], generator=generator).half()
    found = Launches()
    for i, t in enumerate(scheduler.timesteps[:4]):
        with found if i == 3 else torch.no_grad():  # multistep solvers need a start
            inputs = torch.cat([latents] * 2) if guided else latents
            scheduler.scale_model_input(inputs, t)
            prediction = output
            if guided:
                unconditional, conditional = output.chunk(2)
                prediction = unconditional + 5.0 * (conditional - unconditional)
            latents = scheduler.step(prediction, t, latents).prev_sample
    return found.count, found.moved


def fused_step(guided: bool, history: int) -> tuple[int, int]:
    """Return launches and least bytes of step and gather; noise is computed, not moved."""
    rows, elements = SHAPE[0], SHAPE[1] * SHAPE[2] * SHAPE[3]
    branches = 2 if guided else 1
    step = 4 + 4 + 2 * branches + 2 + 8 * history  # x, x', the outputs, the next input, history
    gather = 2 + 2 * branches
    records = rows * (2 * BATCH_ROW.itemsize + TABLE_ROW.itemsize)
    return 2, rows * elements * (step + gather) + records


def lines() -> Iterator[str]:
    """Yield the Markdown tables."""
    cases = (
        ("DDIM", DDIMScheduler(), False, 0),
        ("DDIM, guided", DDIMScheduler(), True, 0),
        ("DDPM", DDPMScheduler(), False, 0),
        ("DPM-Solver++ 2M, guided", DPMSolverMultistepScheduler(), True, 1),
    )
    shape = " x ".join(map(str, SHAPE))
    yield f"One solver step of {shape} in float16, beside the network; fastdiff's state is float32."
    yield ""
    yield "| step | launches: diffusers | fastdiff | MB moved: diffusers | fastdiff | ratio |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    least = {}
    for name, scheduler, guided, history in cases:
        launches, moved = diffusers_step(scheduler, guided)
        own_launches, own = fused_step(guided, history)
        least[name] = own
        yield (
            f"| {name} | {launches} | {own_launches} | {moved / 1e6:.2f} | {own / 1e6:.2f} "
            f"| {moved / own:.1f} |"
        )
    yield ""
    yield "Predicted, not measured: microseconds for fastdiff's bytes at published bandwidths."
    yield ""
    yield "| step | " + " | ".join(f"{n}, {b} GB/s" for n, b in BANDWIDTHS.items()) + " |"
    yield "| --- |" + " ---: |" * len(BANDWIDTHS)
    for name, moved in least.items():
        times = " | ".join(f"{moved / bandwidth / 1e3:.1f}" for bandwidth in BANDWIDTHS.values())
        yield f"| {name} | {times} |"


def main() -> None:
    """Print the tables, and put them between their marks in a file if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traffic", description=__doc__)
    parser.add_argument("--write", type=Path, help="a Markdown file with marks for the tables")
    options = parser.parse_args()
    text = "\n".join(lines()) + "\n"
    print(text)
    if options.write:
        replace_figures(options.write, BEGIN, END, text)


if __name__ == "__main__":
    main()

"""What a network meets when it samples, for backends that need the range of its activations."""

from __future__ import annotations

from dataclasses import replace

from fastdiff.backends import Denoiser
from fastdiff.compiling.trajectory import sampling_run
from fastdiff.networks import Network
from fastdiff.sampling import Schedule

_ROWS, _SEED = 4, 1


def with_samples(network: Network, denoiser: Denoiser, schedule: Schedule) -> Network:
    """Return `network` with its inputs along a sampling run of the float32 `denoiser`.

    They are of the same eight noise levels as the certificate's, and of other noise and other
    conditioning: integers are judged on what they were not fitted to.
    """
    rows = network.batch or _ROWS
    run = sampling_run(network, denoiser, schedule, rows, _SEED)
    times = run.table.t.tolist()
    samples = tuple(
        (x, x.new_full((rows,), t), run.conditioning)
        for x, t in zip(run.inputs, times, strict=True)
    )
    return replace(network, samples=samples)

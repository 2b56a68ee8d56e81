"""Denoiser calls that give a row the same bits in any company and at any position.

A matrix product may be cut differently for 5 rows than for 8, and round differently. So here every
call has the same number of rows, in the same memory, with padding where there are not enough. That
leaves the row's position and its company. No library promises that they do not matter, so it is
checked on the engine itself, and a size at which they do is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from fastdiff.denoisers import Denoiser
from fastdiff.exporting import Network

_MOST_ROWS = 32  # the check makes a call for each


class FixedCall:
    """A denoiser call of a fixed number of rows, bound once to memory of its own.

    Attributes
    ----------
    rows : int
        Of every call.
    x, t : Tensor
        (rows, C, H, W) in the denoiser's dtype and (rows,) float32: what it reads.
    conditioning : dict of str to Tensor
        (rows, ...) each, as well.
    output : Tensor
        (rows, channels, H, W): what it writes.
    """

    def __init__(self, network: Network, denoiser: Denoiser, rows: int) -> None:
        self.rows = rows
        self.x = torch.zeros(rows, *network.sample_shape, dtype=denoiser.input_dtype)
        self.t = torch.zeros(rows, dtype=torch.float32)
        self.conditioning = {
            name: torch.zeros(rows, *spec.shape, dtype=spec.dtype)
            for name, spec in network.conditioning.items()
        }
        channels, (_, height, width) = denoiser.output_channels, network.sample_shape
        self.output = torch.zeros(rows, channels, height, width, dtype=denoiser.output_dtype)
        self.run = denoiser.bind(self.x, self.t, self.conditioning, self.output)

    def evaluating(
        self,
        inputs: Tensor,
        where: Tensor,
        t: Tensor,
        conditioning: Mapping[str, Tensor],
        output: Tensor,
    ) -> Callable[[], None]:
        """Return what evaluates ``inputs[where]``, (k, n), at most `rows` of them, into `output`.

        The other rows of the call are what they were before.
        """
        rows = len(where)

        def evaluate() -> None:
            torch.index_select(inputs, 0, where, out=self.x.flatten(1)[:rows])
            self.t[:rows] = t
            for name, values in conditioning.items():
                self.conditioning[name][:rows] = values
            self.run()
            output.copy_(self.output[:rows])

        return evaluate


def invariant_batch(
    network: Network, denoiser: Denoiser, batch_seconds: Mapping[int, float]
) -> tuple[int, float]:
    """Return the fastest batch size at which a row's bits know neither position nor company.

    Parameters
    ----------
    network : Network
    denoiser : Denoiser
        On the host.
    batch_seconds : mapping of int to float
        Measured time of a call by its number of rows.

    Returns
    -------
    rows : int
        1, which has neither, if no measured size passes.
    seconds : float
        What a call takes.
    """
    sizes = sorted(batch_seconds, key=lambda rows: batch_seconds[rows] / rows)
    fits = (size for size in sizes if 1 < size <= _MOST_ROWS)
    rows = next((size for size in fits if is_invariant(network, denoiser, size)), 1)
    return rows, batch_seconds.get(rows, min(batch_seconds.values()))


def is_invariant(network: Network, denoiser: Denoiser, rows: int) -> bool:
    """Return whether a row of a call of `rows` rows gets the same bits everywhere.

    `rows` different rows are each evaluated at every position, and some of them in other company.
    """
    call = FixedCall(network, denoiser, rows)
    x, t, conditioning = network.example(rows)
    expected: Tensor | None = None
    for order in _orders(rows):
        call.x.copy_(x[order])
        call.t.copy_(t[order])
        for name, values in conditioning.items():
            call.conditioning[name].copy_(values[order])
        call.run()
        expected = call.output.clone() if expected is None else expected
        if not torch.equal(call.output, expected[order]):
            return False
    return True


def _orders(rows: int) -> Iterator[Tensor]:
    """Return which row to put at each position: every rotation, then one among copies."""
    every = torch.arange(rows)
    for shift in range(rows):
        yield every.roll(shift)
    for row in (1, rows - 1):
        alone = torch.zeros(rows, dtype=torch.int64)
        alone[row // 2] = row
        yield alone

"""Denoiser calls that give a row the same bits in any company and at any position.

A matrix product may be cut differently for 5 rows than for 8, and round differently. So here every
call has the same number of rows, in the same memory, where there are not enough with copies of the
last. That leaves the row's position, its company, and the calls before it. No library promises that
they do not matter, so it is checked on the backend itself, and a size at which they do is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from fastdiff.backends import Denoiser
from fastdiff.errors import Unavailable
from fastdiff.networks import Network

LOUD, QUIET = 1e3, 1e-3
"""What a stranger's numbers are multiplied by."""
_MOST_ROWS = 32  # the check makes a call for each


class FixedCall:
    """A denoiser call of a fixed number of rows, bound once to memory of its own.

    Attributes
    ----------
    rows : int
        Of every call.
    x, t : Tensor
        (rows, C, ...) in the denoiser's dtype and (rows,) float32: what it reads.
    conditioning : dict of str to Tensor
        (rows, ...) each, as well.
    output : Tensor
        (rows, channels, ...): what it writes.
    """

    def __init__(self, network: Network, denoiser: Denoiser, rows: int) -> None:
        self.rows = rows
        self.x = torch.zeros(rows, *network.sample_shape, dtype=denoiser.input_dtype)
        self.t = torch.zeros(rows, dtype=torch.float32)
        self.conditioning = {
            name: torch.zeros(rows, *spec.shape, dtype=spec.dtype)
            for name, spec in network.conditioning.items()
        }
        channels, sizes = denoiser.output_channels, network.sample_shape[1:]
        self.output = torch.zeros(rows, channels, *sizes, dtype=denoiser.output_dtype)
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

        The other rows of the call are copies of the last, so nothing of former calls is in it.
        """
        rows = len(where)
        pick = torch.arange(self.rows).clamp_max(rows - 1)
        everywhere = where[pick]
        padded = {name: values[pick] for name, values in conditioning.items()}

        def evaluate() -> None:
            torch.index_select(inputs, 0, everywhere, out=self.x.flatten(1))
            torch.index_select(t, 0, pick, out=self.t)
            for name, values in padded.items():
                self.conditioning[name].copy_(values)
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
        1, which has neither, if no other measured size passes.
    seconds : float
        What a call takes.

    Raises
    ------
    Unavailable
        Not even a row by itself always gets the same bits.
    """
    sizes = sorted(batch_seconds, key=lambda rows: batch_seconds[rows] / rows)
    fits = (size for size in (*sizes, 1) if size <= _MOST_ROWS)
    rows = next((size for size in fits if is_invariant(network, denoiser, size)), None)
    if rows is None:
        raise Unavailable(
            f"batch_invariant=True: {network.name} on {denoiser.backend} gives a row other bits "
            "after other calls, even by itself; remove what its forward keeps or draws"
        )
    return rows, batch_seconds.get(rows, min(batch_seconds.values()))


def is_invariant(network: Network, denoiser: Denoiser, rows: int) -> bool:
    """Return whether a row of a call of `rows` rows gets the same bits everywhere.

    `rows` different rows are each evaluated at every position, the first and the last also among
    copies of a stranger, as loud as they are, louder and quieter, and all of them once more in the
    end.
    """
    call = FixedCall(network, denoiser, rows)
    x, t, conditioning = network.example(rows + 1)  # the last is the stranger
    expected: Tensor | None = None
    for order, factor in _calls(rows):
        strangers = order == rows
        call.x.copy_(_louder(x[order], strangers, factor))
        call.t.copy_(t[order])
        for name, values in conditioning.items():
            spec = network.conditioning[name]
            floats = values.dtype.is_floating_point
            chosen = values[order]
            call.conditioning[name].copy_(
                spec.within_range(_louder(chosen, strangers, factor)) if floats else chosen
            )
        call.run()
        expected = call.output.clone() if expected is None else expected
        if not torch.equal(call.output[~strangers], expected[order[~strangers]]):
            return False
    return True


def _calls(rows: int) -> Iterator[tuple[Tensor, float]]:
    """Return which row to put at each position, and how loud the stranger, `rows`, is."""
    every = torch.arange(rows)
    for shift in range(rows):
        yield every.roll(shift), 1.0
    for factor in (1.0, LOUD, QUIET):
        for row in {0, rows - 1}:
            alone = torch.full((rows,), rows)
            if rows > 1:
                alone[rows - 1 - row] = row
            yield alone, factor
    yield every, 1.0


def _louder(values: Tensor, strangers: Tensor, factor: float) -> Tensor:
    """Return (B, ...) with the rows that are strangers multiplied by `factor`."""
    factors = torch.where(strangers, factor, 1.0).to(values.dtype)
    return values * factors.view(-1, *[1] * (values.ndim - 1))

"""Whether a row's output depends on what shares its call: on company that is right beside it.

Everything here evaluates rows of many requests in one call. That is right for networks whose rows
are independent, and wrong for some: batch statistics, one scale of quantisation for a whole tensor,
a softmax over the batch, a count of the rows. What such a network answers to a row is what it
answers to the row alone, so its rows are evaluated one by one.

A row is evaluated alone and among strangers that are a thousand times louder or quieter than it,
at another time, with other conditioning, at either end of the call. Sums that are cut differently
for more rows round differently, by no more than the precision's certificate allows, and strangers
however loud do not enter them. What a stranger does enter moves by far more.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdiff.backends import Denoiser, row_by_row
from fastdiff.compiling.certificate import LIMITS, strays
from fastdiff.compiling.trajectory import evaluate, reference_table
from fastdiff.engine.fixed_calls import LOUD, QUIET
from fastdiff.networks import Network
from fastdiff.sampling import Schedule

_ROW, _LOUD_STRANGER, _QUIET_STRANGER = range(3)


class Effect(enum.Enum):
    """What a row's output depends on."""

    INDEPENDENT = "on the row"
    COUPLED = "on the rows beside it"
    UNSTEADY = "on the calls before it"


@dataclass(frozen=True)
class Company:
    """A row of a network, and strangers to put beside it.

    Attributes
    ----------
    x : Tensor
        (3, C, ...) float32: the row, a loud stranger, a quiet one.
    t : Tensor
        (3,) float32: their times.
    conditioning : dict of str to Tensor
        (3, ...) each.
    rows : int
        Of the smallest call in which a row has company.
    """

    x: Tensor
    t: Tensor
    conditioning: dict[str, Tensor]
    rows: int

    @classmethod
    def of(cls, network: Network, schedule: Schedule) -> Company:
        """Make a row as `network` meets it halfway, a loud one of before, a quiet of after."""
        table = reference_table(schedule)
        x, _, conditioning = network.example(3)
        x = x * float(table.init_noise_sigma * table.c_in[0])
        for name, value in conditioning.items():
            spec = network.conditioning[name]
            if value.dtype.is_floating_point:
                conditioning[name] = spec.within_range(_with_strangers(value))
            else:
                other = value[:1].long() + torch.tensor([0, 1, 1]).view(3, *[1] * (value.ndim - 1))
                conditioning[name] = (other % (spec.num_classes or 2)).to(value.dtype)
        t = torch.from_numpy(table.t[[len(table) // 2, 0, -1]]).float()
        return cls(_with_strangers(x), t, conditioning, network.batch or 2)

    def effect(self, denoiser: Denoiser, rows: int | None = None) -> Effect:
        """Return what a row's output depends on in calls of `rows` rows, at least `self.rows`."""
        rows = rows or self.rows
        limits = LIMITS[denoiser.precision]
        alone = self._evaluate(denoiser, [_ROW])
        beside_loud = self._evaluate(denoiser, [_ROW, *[_LOUD_STRANGER] * (rows - 1)])[:1]
        beside_quiet = self._evaluate(denoiser, [*[_QUIET_STRANGER] * (rows - 1), _ROW])[-1:]
        if strays(self._evaluate(denoiser, [_ROW]), alone, limits):
            return Effect.UNSTEADY
        moved = (strays(got, alone, limits) for got in (beside_loud, beside_quiet))
        return Effect.COUPLED if any(moved) else Effect.INDEPENDENT

    def apart(self, denoiser: Denoiser) -> Denoiser:
        """Return `denoiser`, made to evaluate its rows one by one if they couple."""
        coupled = self.effect(denoiser) is Effect.COUPLED
        return row_by_row(denoiser) if coupled else denoiser

    def _evaluate(self, denoiser: Denoiser, who: Sequence[int]) -> Tensor:
        pick = torch.tensor(who)
        conditioning = {name: value[pick] for name, value in self.conditioning.items()}
        return evaluate(denoiser, self.x[pick], self.t[pick], conditioning)


def _with_strangers(values: Tensor) -> Tensor:
    """Return (3, ...) with the second row loud and the third quiet."""
    factors = torch.tensor([1.0, LOUD, QUIET], dtype=values.dtype)
    return values * factors.view(3, *[1] * (values.ndim - 1))

"""What a step costs: measured before, and learned while it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from fastdiff.engine.micro_batches import best_batch

_SURE_AFTER = 3  # samples of a bucket that are believed as they are
_NEWEST = 0.05  # share of the newest sample in a mean that has seen many
_BUSY = 0.97  # of the best rate is as good
_STEP_SECONDS = 1e-4  # of a step besides the denoiser's calls, on a host: the engine, the worker
_OUTLIER = 5.0  # a sample counts as at most this many times the mean, and at least its inverse


class StepCost:
    """Seconds of a step by its number of evaluations.

    The tuner's figures give the shape: the calls that a step is cut into, times what one takes.
    What a step really takes, with everything between two steps, is learned as a factor on that for
    each bucket, a power of two of evaluations. A bucket without samples has the median factor of
    those that have some.

    It is a running mean, since a wait is a sum of steps, in which slow ones count however rare they
    are. Yet one outlier moves it by a fifth at most, and a lasting change is followed within some
    forty steps.

    Parameters
    ----------
    batch_seconds : mapping of int to float
        Measured time of a denoiser call by its number of rows.
    """

    def __init__(self, batch_seconds: Mapping[int, float]) -> None:
        self._batch_seconds = dict(batch_seconds)
        self._measured: dict[int, float] = {}
        self._factors: dict[int, float] = {}
        self._samples: dict[int, int] = {}

    def __call__(self, evaluations: int) -> float:
        """Return the expected seconds of a step of `evaluations` evaluations, at least 1."""
        factor = self._factors.get(power_of_two_from(evaluations))
        if factor is None:
            factor = median(self._factors.values()) if self._factors else 1.0
        return factor * self._before(evaluations)

    def learn(self, evaluations: int, seconds: float) -> None:
        """Take in what a step of `evaluations` evaluations took."""
        bucket, factor = power_of_two_from(evaluations), seconds / self._before(evaluations)
        seen = self._samples[bucket] = self._samples.get(bucket, 0) + 1
        mean = self._factors.get(bucket, factor)
        if seen > _SURE_AFTER:
            factor = min(max(factor, mean / _OUTLIER), mean * _OUTLIER)
        self._factors[bucket] = mean + max(1 / seen, _NEWEST) * (factor - mean)

    def learned(self) -> dict[int, float]:
        """Return the seconds of a step for each bucket that has been seen, by its largest size."""
        return {bucket: self(bucket) for bucket in sorted(self._factors.copy())}

    def _before(self, evaluations: int) -> float:
        """Return what the tuner's figures say."""
        if evaluations not in self._measured:
            batch = best_batch(self._batch_seconds, evaluations)
            self._measured[evaluations] = -(-evaluations // batch) * self._batch_seconds[batch]
        return self._measured[evaluations]


def power_of_two_from(evaluations: int) -> int:
    """Return the least power of two that is at least `evaluations`."""
    return 1 << (evaluations - 1).bit_length()


def best_step(batch_seconds: Mapping[int, float]) -> int:
    """Return the fewest evaluations per step that keep the machine nearly as busy as it can be.

    With more of them every row's step would take longer, and the whole would be no faster. Steps of
    k calls of b rows take ``k seconds(b) + overhead``, and 97% of the best rate is enough.

    Parameters
    ----------
    batch_seconds : mapping of int to float
        Measured time of a denoiser call by its number of rows.
    """
    enough = _BUSY * max(batch / seconds for batch, seconds in batch_seconds.items())
    gains = {batch: batch - enough * seconds for batch, seconds in batch_seconds.items()}
    lost = enough * _STEP_SECONDS
    return min(batch * math.ceil(lost / gain) for batch, gain in gains.items() if gain > 0)

"""What a step costs: measured before, and learned while it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from fastdiff.engine.micro_batches import best_batch

# The first samples of a bucket count as they are. Later ones count as at most this many times the
# mean so far, and as at least the mean divided by it.
_UNLIMITED_SAMPLES = 3
_OUTLIER_FACTOR = 5.0
_NEWEST_SHARE = 0.05  # The newest sample is at least this share of the mean.
_NEARLY_BEST = 0.97  # A rate is good enough if it is this share of the best one.
_OVERHEAD_SECONDS = 1e-4  # What engine and worker add to the denoiser's calls of a step, on a CPU.


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
        return factor * self._as_measured(evaluations)

    def learn(self, evaluations: int, seconds: float) -> None:
        """Take in what a step of `evaluations` evaluations took."""
        bucket, factor = power_of_two_from(evaluations), seconds / self._as_measured(evaluations)
        seen = self._samples[bucket] = self._samples.get(bucket, 0) + 1
        mean = self._factors.get(bucket, factor)
        if seen > _UNLIMITED_SAMPLES:
            factor = min(max(factor, mean / _OUTLIER_FACTOR), mean * _OUTLIER_FACTOR)
        self._factors[bucket] = mean + max(1 / seen, _NEWEST_SHARE) * (factor - mean)

    def learned(self) -> dict[int, float]:
        """Return the seconds of a step for each bucket that has been seen, by its largest size."""
        return {bucket: self(bucket) for bucket in sorted(self._factors.copy())}

    def _as_measured(self, evaluations: int) -> float:
        """Return the seconds of a step by the tuner's figures alone."""
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
    enough = _NEARLY_BEST * max(batch / seconds for batch, seconds in batch_seconds.items())
    gains = {batch: batch - enough * seconds for batch, seconds in batch_seconds.items()}
    lost = enough * _OVERHEAD_SECONDS
    return min(batch * math.ceil(lost / gain) for batch, gain in gains.items() if gain > 0)

"""Helpers to write the rows of a table as the formulas of a paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastdiff.sampling.prediction import conversion_coefficients
from fastdiff.sampling.schedule import Schedule

Float64Array = npt.NDArray[np.float64]
Row = list[Float64Array]
"""The new values of the slots (x, H1, ...), each as its coefficients over the columns."""


class Columns:
    """The unit vectors of (x, H1..Hk, D, m, z), so that a row can be written as a sum of terms.

    Parameters
    ----------
    history : int
        The number of history slots, k.
    """

    def __init__(self, history: int) -> None:
        unit = np.eye(history + 4)
        self.x, self.H = unit[0], list(unit[1:-3])
        self.D, self.m, self.z = unit[-3:]

    def noise(self, schedule: Schedule, alpha: float, sigma: float) -> Float64Array:
        """Return the network's own epsilon at a level, as a sum of x and m."""
        a, b = conversion_coefficients(
            schedule.prediction_type, "epsilon", alpha, sigma, schedule.data_scale
        )
        return np.asarray(a * self.x + b * self.m)

    def slope(self, schedule: Schedule, sigma: float, clip: float) -> Float64Array:
        """Return dx/dsigma = (x - D) / sigma, in the coordinates of `straight_grid`.

        If the network predicts the slope and nothing is clipped, it is the output m itself, since
        (x - D) / sigma would lose digits by cancellation in float32 at small sigma.
        """
        own = "flow_prediction" if schedule.process == "flow" else "epsilon"
        if np.isinf(clip) and schedule.prediction_type == own:
            return np.asarray(self.m)
        return np.asarray((self.x - self.D) / sigma)


def stack(rows: Sequence[Row], history: int) -> Float64Array:
    """Return rows as an update, (n, k + 1, k + 4). Slots that a row leaves out become 0."""
    update = np.zeros((len(rows), history + 1, history + 4))
    for i, row in enumerate(rows):
        update[i, : len(row)] = row
    return update

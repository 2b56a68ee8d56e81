"""A solver as data: one checked row of coefficients for each evaluation of the network.

Let the state of an image be S = (x, H1..Hk). Every row of every solver then computes

    m  = model(c_in x, t)
    D  = clip(p x + q m, -clip, clip)             the denoised estimate
    S' = update @ (x, H1..Hk, D, m, exp(w v) z)   z ~ N(0, 1), v a learned log-variance, or w = 0

A `StepTable` holds these rows in float64 and checks them when it is made. `StepTable.pack` returns
the float32 records that the step kernels read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from fastdiff.errors import TableError
from fastdiff.records import TABLE_ROW
from fastdiff.sampling.order import BASES, RULES
from fastdiff.sampling.packing import assign_slots
from fastdiff.sampling.passes import Thresholding
from fastdiff.sampling.proof import prove

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PackedTable:
    """A table in the form the step kernels read.

    Parameters
    ----------
    rows : (n,) TABLE_ROW
        One record per model evaluation, read-only.
    history_slots : int
        K, how many history slots the rows use, 0 to 4.
    init_noise_sigma : float
        Standard deviation of the initial noise.
    first_c_in : float
        The first denoiser input is ``first_c_in * x``; the later ones are in the rows.
    uses_noise : bool
        Whether any row draws noise.
    needs_variance : bool
        Whether the network must also return a log-variance.
    levels : (n + 1, 2) float32
        alpha and sigma at which each row starts and, last, where the last row ends, read-only.
        x = alpha X + sigma N there, in the coordinates of the rows.
    thresholding : Thresholding, optional
        Dynamic thresholding before each step, see `fastdiff.sampling.passes`.
    """

    rows: npt.NDArray[np.void]
    history_slots: int
    init_noise_sigma: float
    first_c_in: float
    uses_noise: bool
    needs_variance: bool
    levels: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    thresholding: Thresholding | None = None


@dataclass(frozen=True, eq=False)
class StepTable:
    """The rows of a solver, which the constructor checks.

    Parameters
    ----------
    name, prediction_type : str
        The solver, and what its network predicts.
    update : (n, k + 1, k + 4) float64
        S' = update @ (x, H1..Hk, D, m, z); slot 0 of the state is x, slot j is Hj.
    p, q, clip : (n,) float64
        D = clip(p x + q m, -clip, clip); clip is inf where there is none.
    t, c_in : (n,) float64
        What the network gets as time, and the scale of its input.
    alpha, sigma : (n,) float64
        Noise level of x before the row: x = alpha X + sigma N.
    alpha_to, sigma_to : (n,) float64
        Noise level that the row steps to.
    w : (n,) float64
        Log-slope of a learned noise scale, 0 where there is none.
    order : (n,) int
        Order whose moment conditions the row meets, given exact values of the rows before.
    inner : (n,) bool
        Whether x before the row is a value inside a step, which the row before computed from the
        start of the step. The moments are then those of the whole step.
    moment_basis : {"data", "epsilon", "slope"}
        What the rows interpolate by polynomials, see `fastdiff.sampling.order`.
    moment_rule : {"exact", "midpoint", "leading"}
        How rows of order 2 integrate degree 1, see `fastdiff.sampling.order.RULES`.
    sigma_data : float
        Standard deviation of the data that the network's input and prediction are scaled for.
    raw_input : bool
        Whether the network takes x itself, c_in = 1, rather than x scaled to unit variance.
    init_noise_sigma : float
        Standard deviation of the initial noise. NaN means that of noised data at the first noise
        level.
    thresholding : Thresholding, optional
        Dynamic thresholding of D in place of the clip. `clip` must then be its `max_value`.
    waived : mapping of str to str
        Checks that the method breaks on purpose, each with the reason. A waived check must indeed
        fail, so that a waiver cannot outlive its reason.
    compat : bool
        Whether the coefficients are those of another library. It may depart from the paper on some
        schedules only, so waivers that are not needed are dropped and are no error.

    Raises
    ------
    TableError
        If the arrays do not fit together, a check fails that is not waived, or a waived check
        holds. The checks are described in `fastdiff.sampling.proof`.
    """

    name: str
    prediction_type: str
    update: Float64Array
    p: Float64Array
    q: Float64Array
    clip: Float64Array
    t: Float64Array
    c_in: Float64Array
    alpha: Float64Array
    sigma: Float64Array
    alpha_to: Float64Array
    sigma_to: Float64Array
    w: Float64Array
    order: npt.NDArray[np.int64]
    inner: npt.NDArray[np.bool_]
    moment_basis: str = "data"
    moment_rule: str = "exact"
    sigma_data: float = 1.0
    raw_input: bool = False
    init_noise_sigma: float = math.nan
    thresholding: Thresholding | None = None
    waived: Mapping[str, str] = field(default_factory=dict)
    compat: bool = False

    def __post_init__(self) -> None:
        for name in _ROW_FIELDS:
            dtype = _DTYPES.get(name, np.float64)
            array: npt.NDArray[Any] = np.array(getattr(self, name), dtype=dtype)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        self._check_shapes()
        broken = prove(self)
        waived = {check: reason for check, reason in self.waived.items() if check in broken}
        object.__setattr__(self, "waived", MappingProxyType(waived))
        if math.isnan(self.init_noise_sigma):
            level = math.hypot(self.alpha[0] * self.sigma_data, self.sigma[0])
            object.__setattr__(self, "init_noise_sigma", level)

    def __len__(self) -> int:
        """Return the number of evaluations, n."""
        return len(self.t)

    @property
    def history(self) -> int:
        """The number of logical history slots, k."""
        return int(self.update.shape[1]) - 1

    @property
    def levels(self) -> Float64Array:
        """(alpha, sigma) at which each row starts and where the last one ends, (n + 1, 2)."""
        alpha = np.append(self.alpha, self.alpha_to[-1])
        return np.stack([alpha, np.append(self.sigma, self.sigma_to[-1])], axis=1)

    def pack(self) -> PackedTable:
        """Return the records that the step kernels read.

        Shifts of the history become renaming, and stores that no row reads are left out. That
        leaves at most one history write for each row.

        Raises
        ------
        TableError
            If a row still needs two writes, or more than 4 slots are live at once.
        """
        x_rows, h_rows, destinations = assign_slots(self.update, self.name)
        rows = np.zeros(len(self), TABLE_ROW)
        rows["x"], rows["h"], rows["dst"] = x_rows, h_rows, destinations
        for name in ("p", "q", "clip", "t", "w"):
            rows[name] = getattr(self, name)
        rows["c_in_next"] = np.append(self.c_in[1:], 1.0)
        levels = self.levels.astype(np.float32)
        rows.setflags(write=False)
        levels.setflags(write=False)
        return PackedTable(
            rows=rows,
            history_slots=int(destinations.max()),
            init_noise_sigma=self.init_noise_sigma,
            first_c_in=float(self.c_in[0]),
            uses_noise=bool(np.any(rows["x"][:, -1]) or np.any(rows["h"][:, -1])),
            needs_variance=bool(np.any(self.w)),
            levels=levels,
            thresholding=self.thresholding,
        )

    def _check_shapes(self) -> None:
        n = len(self.t) if self.t.ndim == 1 else 0
        k = self.update.shape[1] - 1 if self.update.ndim == 3 else -1
        if n == 0 or k < 0 or self.update.shape != (n, k + 1, k + 4):
            raise TableError(
                f"{self.name}: update must be (n, k + 1, k + 4) for the n > 0 times, got "
                f"{self.update.shape} and times of shape {self.t.shape}"
            )
        for name in _ROW_FIELDS:
            array = getattr(self, name)
            if name != "update" and array.shape != (n,):
                raise TableError(f"{self.name}: {name} must be ({n},), got {array.shape}")
        if self.thresholding and np.any(self.clip != self.thresholding.max_value):
            raise TableError(
                f"{self.name}: with thresholding clip must be its max_value, "
                f"{self.thresholding.max_value:g}, got {self.clip.tolist()}"
            )
        for name, known in (("moment_basis", BASES), ("moment_rule", RULES)):
            if getattr(self, name) not in known:
                raise TableError(
                    f"{self.name}: {name} must be one of {known}, got {getattr(self, name)!r}"
                )


_DTYPES: dict[str, type] = {"order": np.int64, "inner": np.bool_}
_ROW_FIELDS = tuple(f.name for f in fields(StepTable) if "Array" in str(f.type))

"""A solver as data: one validated row of coefficients per model evaluation.

With the state S = (x, H1..Hk) of an image, every step of every solver is

    m  = model(c_in x, t)
    D  = clip(p x + q m, -clip, clip)             the denoised estimate
    S' = update @ (x, H1..Hk, D, m, exp(w v) z)   z ~ N(0, 1), v a learned log-variance, or w = 0

A `StepTable` holds these rows in float64 and proves itself when it is made. `StepTable.pack` gives
the float32 records that the step kernels read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from fastdiff.errors import TableError
from fastdiff.records import TABLE_ROW
from fastdiff.sampling.packing import assign_slots
from fastdiff.sampling.proof import MOMENT_RULES, prove

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
    """

    rows: npt.NDArray[np.void]
    history_slots: int
    init_noise_sigma: float
    first_c_in: float
    uses_noise: bool
    needs_variance: bool


@dataclass(frozen=True, eq=False)
class StepTable:
    """The rows of a solver, which prove themselves in the constructor.

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
        Level of x before the row: x = alpha X + sigma N.
    alpha_to, sigma_to : (n,) float64
        Level that the row steps to.
    w : (n,) float64
        Log-slope of a learned noise scale, 0 where there is none.
    order : (n,) int
        Order whose moment conditions the row meets; above 1 only for multistep rows whose
        history is D itself.
    moment_rule : {"exact", "midpoint"}
        Which first moment rows of order 2 have: that of the exponential integral, or step / 2
        times the zeroth (DPM-Solver++ "midpoint").
    init_noise_sigma : float
        Standard deviation of the initial noise; sqrt(alpha^2 + sigma^2) of the first level if NaN.
    waived : mapping of str to str
        Checks that the method breaks on purpose, each with the reason. A check that is waived must
        indeed fail, so that a waiver cannot outlive its reason.

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
    moment_rule: str = "exact"
    init_noise_sigma: float = math.nan
    waived: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _ROW_FIELDS:
            dtype = np.int64 if name == "order" else np.float64
            array = np.array(getattr(self, name), dtype=dtype)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "waived", MappingProxyType(dict(self.waived)))
        self._check_shapes()
        prove(self)
        if math.isnan(self.init_noise_sigma):
            level = math.hypot(self.alpha[0], self.sigma[0])
            object.__setattr__(self, "init_noise_sigma", level)

    def __len__(self) -> int:
        """Model evaluations, n."""
        return len(self.t)

    @property
    def history(self) -> int:
        """Logical history slots, k."""
        return int(self.update.shape[1]) - 1

    def pack(self) -> PackedTable:
        """Compile to the records of the step kernels.

        Shifts of history become renaming and stores that nobody reads disappear, which leaves at
        most one history write per row.

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
        rows.setflags(write=False)
        return PackedTable(
            rows=rows,
            history_slots=int(destinations.max()),
            init_noise_sigma=self.init_noise_sigma,
            first_c_in=float(self.c_in[0]),
            uses_noise=bool(np.any(rows["x"][:, -1]) or np.any(rows["h"][:, -1])),
            needs_variance=bool(np.any(self.w)),
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
        if self.moment_rule not in MOMENT_RULES:
            raise TableError(
                f"{self.name}: moment_rule must be one of {MOMENT_RULES}, got {self.moment_rule!r}"
            )


_ROW_FIELDS = tuple(
    f.name
    for f in fields(StepTable)
    if f.name not in ("name", "prediction_type", "moment_rule", "init_noise_sigma", "waived")
)

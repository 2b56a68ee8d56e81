"""PNDM: Liu, Ren, Lin and Zhao, "Pseudo Numerical Methods", arXiv 2202.09778."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument
from fastdiff.sampling.path import Path
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.ddim import data_level
from fastdiff.sampling.solvers.grid import Grid, Level
from fastdiff.sampling.solvers.rows import Columns, Row, stack
from fastdiff.sampling.table import StepTable

ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
_RUNGE_KUTTA_STEPS = 3
_COMPAT = {
    "levels": "diffusers steps by T // n, not to the next time it visits",
    "mean": "diffusers mixes v predictions of several levels before it converts them",
    "variance": "diffusers mixes v predictions of several levels before it converts them",
}

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PNDM(Solver, name="pndm", schedulers=("PNDMScheduler",)):
    """PNDM: the linear multistep method of fourth order on DDIM's steps, eq. 9, 11 and 12.

    The times should be evenly spaced. The multistep method needs four evaluations before it
    starts, which either warm-up provides.

    Parameters
    ----------
    skip_prk_steps : bool
        False: three pseudo Runge-Kutta steps of four evaluations each (Algorithm 2), for at least
        four steps. True: the first step is done twice, as Heun's method would, and the order
        grows with the history (PLMS of latent diffusion): one evaluation more than steps.
    """

    skip_prk_steps: bool = False

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        if schedule.process != "vp":
            raise InvalidArgument(
                f"pndm steps evenly through discrete times, which process {schedule.process!r} "
                "does not have; use 'dpmpp_2m' or 'unipc'"
            )
        if schedule.thresholding:
            raise InvalidArgument(
                "pndm mixes the network's outputs and has no denoised estimate to threshold; use "
                "'ddim' or 'dpmpp_2m', or a schedule without thresholding"
            )
        if not self.skip_prk_steps and len(path.t) <= _RUNGE_KUTTA_STEPS:
            raise InvalidArgument(
                f"the Runge-Kutta start of pndm takes {_RUNGE_KUTTA_STEPS} steps and needs one "
                f"more, got {len(path.t)}; use more steps or skip_prk_steps=True"
            )
        plan = _Plan(schedule, path, compat, Columns(3 if self.skip_prk_steps else 4))
        plan.plms() if self.skip_prk_steps else plan.runge_kutta()
        alpha, sigma = np.array(plan.levels).T
        to = np.array(plan.to)
        grid = Grid(
            np.array(plan.times), alpha, sigma, to[:, 0], to[:, 1], np.ones(len(plan.times))
        )
        update = stack(plan.rows, len(plan.c.H))
        waived = _COMPAT if compat else {}
        return self._assemble(schedule, grid, update, waived=waived, compat=compat)


@dataclass
class _Plan:
    """The rows as they are written. H1..H3 are the last outputs, H4 what a stage must keep.

    The outputs are epsilons; with `compat` what the network returned, converted only when a step
    uses it. The start of a step is not kept: where x = a start + b output, it is (x - b output)/a.
    """

    schedule: Schedule
    path: Path
    compat: bool
    c: Columns
    rows: list[Row] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    to: list[Level] = field(default_factory=list)

    @property
    def stride(self) -> int:
        """By how much diffusers steps."""
        return self.schedule.num_train_timesteps // (self.path.skipped + len(self.path))

    def level(self, t: float) -> Level:
        """Return the level of a time; below 0 it is where sampling ends."""
        if t < 0:
            return data_level(self.schedule)
        alpha, sigma = self.schedule.level(t)
        return alpha, sigma

    def next(self, i: int) -> float:
        """Return the time that step i goes to, negative for the end."""
        t = self.path.t
        if self.compat:
            return float(t[i]) - self.stride
        return float(t[i + 1]) if i + 1 < len(t) else -1.0

    def output(self, t: float) -> Float64Array:
        """Return what history keeps of the evaluation at time t."""
        return self.c.m if self.compat else self.c.noise(self.schedule, *self.level(t))

    def move(self, x: Float64Array, output: Float64Array, t: float, to: float) -> Float64Array:
        """Return DDIM's step along an output, eq. 11."""
        (alpha, sigma), (alpha_to, sigma_to) = self.level(t), self.level(to)
        if self.compat and self.schedule.prediction_type == "v_prediction":
            output = alpha * output + sigma * x
        return alpha_to / alpha * x + (sigma_to - alpha_to * sigma / alpha) * output

    def gains(self, t: float, to: float) -> tuple[float, float]:
        """Return (a, b) with move(x, output) = a x + b output."""
        unit = self.move(self.c.x, self.c.m, t, to)
        return float(unit[0]), float(unit[-2])

    def add(self, t: float, to: float, row: Row) -> None:
        self.rows.append(row)
        self.times.append(t)
        self.levels.append(self.level(t))
        self.to.append(self.level(to))

    def multistep(self, i: int, order: int) -> None:
        c, t, to = self.c, float(self.path.t[i]), self.next(i)
        now = self.output(t)
        past = [now, *c.H[:3]][:order]
        mixed = np.tensordot(ADAMS_BASHFORTH[order], np.array(past), 1)
        self.add(t, to, [self.move(c.x, mixed, t, to), now, *c.H[:2]])

    def plms(self) -> None:
        c, t = self.c, self.path.t.tolist()
        to = self.next(0)
        now = self.output(t[0])
        self.add(t[0], to, [self.move(c.x, now, t[0], to), now])
        if len(t) == 1:
            return
        # The first step again, with the average of both its ends.
        a, b = self.gains(t[0], to)
        start = (c.x - b * c.H[0]) / a
        again = t[1] + (t[0] - to) if self.compat else t[0]
        average = (self.output(t[1]) + c.H[0]) / 2
        self.add(t[1], t[1], [self.move(start, average, again, t[1]), c.H[0]])
        for i in range(1, len(t)):
            self.multistep(i, min(4, i + 1))

    def runge_kutta(self) -> None:
        for i in range(_RUNGE_KUTTA_STEPS):
            self.runge_kutta_step(i)
        for i in range(_RUNGE_KUTTA_STEPS, len(self.path.t)):
            self.multistep(i, 4)

    def runge_kutta_step(self, i: int) -> None:
        c, t, end = self.c, float(self.path.t[i]), float(self.path.t[i + 1])
        half = (t + end) / 2  # where the first stage goes, and where the next two are evaluated
        landing = half
        if self.compat:
            half, landing = end + self.stride // 2, t - self.stride // 2
            end = half - self.stride // 2
        if not end < min(half, landing) <= max(half, landing) < t:
            raise InvalidArgument(
                f"the half steps of diffusers do not fit between the times {t:g} and {end:g}; use "
                "fewer steps, or leave compat out"
            )
        now = self.output(t)
        self.add(t, landing, [self.move(c.x, now, t, landing), now, *c.H[:2]])
        a, b = self.gains(t, landing)
        start = (c.x - b * c.H[0]) / a
        self.add(half, half, [self.move(start, self.output(half), t, half), *c.H[:3], start])
        a, b = self.gains(t, half)
        second, third = (c.x - a * c.H[3]) / b, self.output(half)
        total = c.H[0] / 6 + (second + third) / 3
        self.add(
            half,
            end,
            [self.move(c.H[3], third, t, end), *c.H[:3], self.move(c.H[3], total, t, end)],
        )
        _, b = self.gains(t, end)
        self.add(end, end, [c.H[3] + b / 6 * self.output(end), *c.H[:3]])

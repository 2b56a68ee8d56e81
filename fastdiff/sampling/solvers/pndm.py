"""PNDM: Liu, Ren, Lin and Zhao, "Pseudo Numerical Methods", arXiv 2202.09778."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

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
_Stages = tuple[float, list[float], list[float]]
"""Where a Runge-Kutta step begins, where its stages are evaluated, and where they step to."""


@dataclass(frozen=True)
class PNDM(Solver, name="pndm", schedulers=("PNDMScheduler",)):
    """PNDM: the linear multistep method of fourth order on DDIM's steps, eq. 9, 11 and 12.

    The times should be evenly spaced. The multistep method needs four evaluations before it can
    start, for which there are two ways of warming up.

    Parameters
    ----------
    skip_prk_steps : bool
        False: three pseudo Runge-Kutta steps of four evaluations each (Algorithm 2), which needs at
        least four steps. True: the first step is taken twice, as in Heun's method, and the order
        grows with the history (PLMS of latent diffusion), which is one evaluation more than steps.
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
        steps = len(path) + (path.skipped if compat else 0)
        if not self.skip_prk_steps and steps <= _RUNGE_KUTTA_STEPS:
            raise InvalidArgument(
                f"the Runge-Kutta start of pndm takes {_RUNGE_KUTTA_STEPS} steps and needs one "
                f"more, got {steps}; use more steps or skip_prk_steps=True"
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
    """The rows so far. H1 to H3 are the last outputs, and H4 is what a Runge-Kutta stage must keep.

    The outputs are epsilons. With `compat` they are what the network returned, and are converted
    when a step uses them. The start of a step is not kept: from x = a start + b output it is
    computed as (x - b output) / a.
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
    def whole(self) -> Float64Array:
        """The times of the whole path; `path` may hold only the last of them."""
        return np.append(self.path.left_out, self.path.t)

    @property
    def stride(self) -> int:
        """The distance in time of a step of diffusers."""
        return self.schedule.num_train_timesteps // len(self.whole)

    def level(self, t: float) -> Level:
        """Return the noise level of a time. Below 0 it is the one where sampling ends."""
        if t < 0:
            return data_level(self.schedule)
        alpha, sigma = self.schedule.level(t)
        if alpha == 0:
            raise InvalidArgument(
                f"pndm divides by alpha, which is 0 at t={t:g} (zero terminal SNR); use 'ddim' or "
                "'dpmpp_2m', or a schedule without rescale_betas_zero_snr"
            )
        return alpha, sigma

    def output(self, t: float) -> Float64Array:
        """Return what the history keeps of the evaluation at time t."""
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

    def multistep(self, t: float, to: float, order: int) -> None:
        c, now = self.c, self.output(t)
        past = [now, *c.H[:3]][:order]
        mixed = np.tensordot(ADAMS_BASHFORTH[order], np.array(past), 1)
        self.add(t, to, [self.move(c.x, mixed, t, to), now, *c.H[:2]])

    def plms(self) -> None:
        """Write the rows of the multistep method that warms up by itself."""
        c, moves = self.c, self.plms_moves()
        for i, (t, begin, to) in enumerate(moves):
            if i == 1:  # the first step again, with the average of the outputs at its ends
                first, _, first_to = moves[0]
                a, b = self.gains(first, first_to)
                start = (c.x - b * c.H[0]) / a
                average = (self.output(t) + c.H[0]) / 2
                self.add(t, to, [self.move(start, average, begin, to), c.H[0]])
            else:
                self.multistep(t, to, min(4, max(i, 1)))

    def plms_moves(self) -> list[tuple[float, float, float]]:
        """Return for each row the times of its evaluation, of its start and of its end."""
        if not self.compat:
            t = [*self.path.t.tolist(), -1.0]
            steps = [(begin, begin, to) for begin, to in pairwise(t)]
            again = [(t[1], t[0], t[1])] if len(self.path) > 1 else []
            return steps[:1] + again + steps[1:]
        # diffusers lists the second time twice, then cuts the list, and counts from the cut.
        times, stride = np.insert(self.whole, 1, self.whole[1:2]), self.stride
        moves = [(t, t, t - stride) for t in times[self.path.skipped :].tolist()]
        moves[1:2] = [(t, t + stride, t) for t, _, _ in moves[1:2]]
        return moves

    def runge_kutta(self) -> None:
        """Write the rows of three Runge-Kutta steps, and of the multistep method after them."""
        start, rest = self.runge_kutta_moves()
        for stages in start:
            self.runge_kutta_step(*stages)
        for t, to in rest:
            self.multistep(t, to, 4)

    def runge_kutta_moves(self) -> tuple[list[_Stages], list[tuple[float, float]]]:
        """Return the stages of the Runge-Kutta steps, and (t, to) of each step after them."""
        n = _RUNGE_KUTTA_STEPS
        if not self.compat:
            t = [*self.path.t.tolist(), -1.0]
            steps = list(pairwise(t))
            halves = [(begin, (begin + end) / 2, end) for begin, end in steps[:n]]
            stages = [(begin, [begin, h, h, end], [h, h, end, end]) for begin, h, end in halves]
            return stages, steps[n:]
        # diffusers may cut its list inside a step. The first three steps still start where they
        # did before the cut.
        whole, stride, half = self.whole.tolist(), self.stride, self.stride // 2
        times = [
            visited
            for begin, end in pairwise(whole[: n + 1])
            for visited in (begin, end + half, end + half, end)
        ]
        times = [*times, *whole[n:]][self.path.skipped :]
        stages = []
        for i, begin in enumerate(whole[:n]):
            if visited := times[4 * i : 4 * i + 4]:
                to = [t - back for t, back in zip(visited, (half, 0, half, 0), strict=False)]
                stages.append((begin, visited, to))
        return stages, [(t, t - stride) for t in times[4 * n :]]

    def runge_kutta_step(self, begin: float, times: list[float], to: list[float]) -> None:
        """Write the four stages of a step from `begin`, or the first ones if there are fewer."""
        c, missing = self.c, 4 - len(times)
        t, end = [*times, *times[-1:] * missing], [*to, *to[-1:] * missing]
        (a, b), (a_half, b_half), (_, b_end) = (
            self.gains(begin, end[stage]) for stage in (0, 1, 3)
        )
        if not end[1] < begin:
            raise InvalidArgument(
                f"the half steps of diffusers do not fit between the times {begin:g} and "
                f"{end[3]:g}; use fewer steps, or leave compat out"
            )
        first, third = self.output(t[0]), self.output(t[2])
        start = (c.x - b * c.H[0]) / a
        total = c.H[0] / 6 + ((c.x - a_half * c.H[3]) / b_half + third) / 3
        stages: list[Row] = [
            [self.move(c.x, first, begin, end[0]), first, *c.H[:2]],
            [self.move(start, self.output(t[1]), begin, end[1]), *c.H[:3], start],
            [
                self.move(c.H[3], third, begin, end[2]),
                *c.H[:3],
                self.move(c.H[3], total, begin, end[3]),
            ],
            [c.H[3] + b_end / 6 * self.output(t[3]), *c.H[:3]],
        ]
        for time, target, row in zip(times, to, stages, strict=False):
            self.add(time, target, row)

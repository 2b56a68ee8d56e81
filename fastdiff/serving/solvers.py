"""Which solvers a served model can be sampled with, and what their steps cost."""

from __future__ import annotations

from dataclasses import dataclass

from fastdiff.errors import FastdiffError
from fastdiff.sampler import Sampler
from fastdiff.sampling import Solver, get_solver, list_solvers


@dataclass(frozen=True)
class UsableSolver:
    """A solver that can sample a model, and what its steps cost.

    A table has ``per_step * steps + extra`` rows: Heun and its like evaluate twice in all steps but
    the last, the start of PNDM adds nine.
    """

    solver: Solver
    per_step: int
    extra: int

    def rows(self, steps: int) -> int:
        """Return the rows of the table of `steps` steps."""
        return max(1, self.per_step * steps + self.extra)


def usable_solvers(sampler: Sampler, preferred: Solver) -> dict[str, UsableSolver]:
    """Return the solvers that can sample a model from noise, `preferred` under its own name."""
    network, schedule = sampler.network, sampler.schedule
    learned_variance = network.output_channels == 2 * network.sample_shape[0]
    most = min(schedule.num_train_timesteps, 11)
    found = {}
    for name in list_solvers():
        solver = preferred if name == preferred.name else get_solver(name)
        try:
            few, many = (solver.table(schedule, steps=n) for n in (max(most - 1, 1), most))
        except FastdiffError:  # The solver does not fit the schedule.
            continue
        ends_in_noise = many.sigma_to[-1] > many.sigma[0]
        if not ends_in_noise and (learned_variance or not many.pack().needs_variance):
            per_step = len(many) - len(few)
            found[name] = UsableSolver(solver, per_step, len(many) - per_step * most)
    return found

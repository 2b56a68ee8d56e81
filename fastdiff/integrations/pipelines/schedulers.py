"""Schedulers of diffusers as solvers and schedules."""

from __future__ import annotations

from typing import Any

from fastdiff.sampling import Schedule, Solver, solver_from_config


def read_scheduler(scheduler: Any) -> tuple[Solver, Schedule]:
    """Return what a scheduler object of diffusers does, by its class and its configuration.

    Raises
    ------
    UnknownName
        No solver is of its class.
    InvalidArgument
        A setting is not supported; the message names it.
    """
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    return solver_from_config(config), Schedule.from_config(config)

"""Scheduler objects of diffusers as schedules."""

from __future__ import annotations

from typing import Any

from fastdiff.sampling import Schedule


def is_scheduler(value: object) -> bool:
    """Whether `value` is a scheduler object of diffusers, or of a class derived from one."""
    return any(
        base.__name__ == "SchedulerMixin" and base.__module__.startswith("diffusers.")
        for base in type(value).__mro__
    )


def schedule_of(scheduler: Any) -> Schedule:
    """Return the noise schedule of a scheduler object.

    Raises
    ------
    InvalidArgument
        A setting is not supported; the message names it.
    """
    return Schedule.from_config({**scheduler.config, "_class_name": type(scheduler).__name__})

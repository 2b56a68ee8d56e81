"""The solver families, one file each.

A file here that defines ``class Mine(Solver, name="mine")`` adds a solver; nothing else changes.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling.config import read_config
from fastdiff.sampling.solvers.base import REGISTRY, Solver

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def list_solvers() -> list[str]:
    """Return the names of all solvers, sorted."""
    return sorted(REGISTRY)


def get_solver(name_or_solver: str | Solver, **options: Any) -> Solver:
    """Return a solver by name, or a solver with some options changed.

    Parameters
    ----------
    name_or_solver : str or Solver
        One of `list_solvers`, or a solver.
    **options
        Fields of the solver's dataclass.

    Raises
    ------
    UnknownName
        If there is no such solver.
    InvalidArgument
        If the solver has no such option, or the option no such value.
    """
    if isinstance(name_or_solver, Solver):
        _check_options(type(name_or_solver), options)
        return replace(name_or_solver, **options)
    solver = REGISTRY.get(name_or_solver) if isinstance(name_or_solver, str) else None
    if solver is None:
        raise UnknownName("solver", name_or_solver, REGISTRY)
    _check_options(solver, options)
    return solver(**options)


def solver_from_config(config: Mapping[str, Any] | str | os.PathLike[str]) -> Solver:
    """Return the solver that a diffusers scheduler configuration names.

    Parameters
    ----------
    config : mapping or path
        As for `Schedule.from_config`, with the ``_class_name`` that saved configurations have; a
        scheduler in memory has it as ``type(scheduler).__name__`` instead.

    Raises
    ------
    UnknownName
        If no solver runs its ``_class_name``.
    InvalidArgument
        If an option of that solver has a value that is not supported.
    """
    settings = read_config(config)
    for solver in REGISTRY.values():
        found = solver.from_config(settings)
        if found is not None:
            return found
    raise UnknownName("scheduler class", settings.get("_class_name"), known_schedulers())


def known_schedulers() -> list[str]:
    """Return the names of the scheduler classes of diffusers that a solver runs, sorted."""
    return sorted({name for solver in REGISTRY.values() for name in solver.schedulers})


def _check_options(solver: type[Solver], options: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(solver)]
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InvalidArgument(
                f"solver {solver.name!r} has no option {option!r}; {hint}known: "
                f"{', '.join(known) or 'none'}"
            )


__all__ = ["Solver", "get_solver", "known_schedulers", "list_solvers", "solver_from_config"]

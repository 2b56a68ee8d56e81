"""What every solver family shares: its options, its path, and the assembly of its table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling.checks import check_number, plain
from fastdiff.sampling.path import Path, PathRules, visit
from fastdiff.sampling.prediction import denoised_coefficients
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.scheduler_keys import READS
from fastdiff.sampling.solvers.grid import Grid, thresholding
from fastdiff.sampling.table import StepTable

REGISTRY: dict[str, type[Solver]] = {}
"""Every solver class by name. A class is added when it is defined."""

COMPAT = ("diffusers",)


@dataclass(frozen=True)
class Solver(ABC):
    """A solver family with its options; `table` turns it into data.

    A subclass names itself, ``class DDIM(Solver, name="ddim")``, which registers it; its dataclass
    fields are its options. ``schedulers`` are the diffusers classes whose configurations it runs.
    """

    name: ClassVar[str]
    schedulers: ClassVar[tuple[str, ...]] = ()
    rules: ClassVar[PathRules] = PathRules()
    required: ClassVar[Mapping[str, Any]] = {}
    """Settings of a configuration that must have this value (or be absent), such as predict_x0."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Options that are read from a configuration although a `Schedule` has them too."""
    aliases: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Values of an option that belong to another class, and what diffusers replaces them by."""

    def __init_subclass__(cls, *, name: str, schedulers: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name, cls.schedulers = name, tuple(schedulers)
        REGISTRY[name] = cls

    def __post_init__(self) -> None:
        """Check the options for which their type is enough; a subclass checks the others."""
        for option in fields(self):
            value, kind = plain(getattr(self, option.name)), str(option.type)
            object.__setattr__(self, option.name, value)
            flag = isinstance(value, bool) or (value is None and "None" in kind)
            if kind.startswith("bool") and not flag:
                raise InvalidArgument(f"{option.name} must be True or False, got {value!r}")
        limit = getattr(self, "clip_sample_range", None)
        if limit is not None:
            check_number("clip_sample_range", limit, 1e-6, 1e6)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Solver | None:
        """Return this solver for a diffusers configuration, or None if another solver runs it.

        Options that a `Schedule` has as well stay None, which means "as the schedule says".

        Raises
        ------
        InvalidArgument
            If a setting has a value that this solver does not offer.
        """
        if config.get("_class_name") not in cls.schedulers or not cls.runs(config):
            return None
        for key, value in cls.required.items():
            if config.get(key, value) not in (value, None):
                raise InvalidArgument(
                    f"scheduler setting {key}={config[key]!r} is not supported by {cls.name!r}; "
                    f"set it to {value!r} or leave it out"
                )
        own = {f.name for f in fields(cls)} - {f.name for f in fields(Schedule)} | {*cls.reads}
        read = own & READS[config["_class_name"]]
        options = {key: config[key] for key in read if config.get(key) is not None}
        for key in options.keys() & cls.aliases.keys():
            options[key] = cls.aliases[key].get(options[key], options[key])
        return cls(**options)

    @classmethod
    def runs(cls, config: Mapping[str, Any]) -> bool:
        """Whether a configuration of one of `schedulers` is this solver and not a sibling."""
        return True

    def table(
        self,
        schedule: Schedule,
        steps: int | None = None,
        timesteps: Sequence[float] | None = None,
        compat: str | None = None,
        sigmas: Sequence[float] | None = None,
        start: int = 0,
    ) -> StepTable:
        """Return the rows that sample `schedule` with this solver.

        Parameters
        ----------
        schedule : Schedule
            How the model was trained.
        steps : int, optional
            Steps, 1 to ``schedule.num_train_timesteps``, spaced as the schedule says. A step is
            one evaluation of the network and one row; with `heun` and its like it is two.
        timesteps : sequence of float, optional
            The times themselves, strictly descending, instead of `steps`.
        compat : {"diffusers"}, optional
            Reproduce the deviations of diffusers, listed in docs/conformance.md.
        sigmas : sequence of float, optional
            The noise levels themselves, strictly descending, instead of `steps`: sigma / alpha for
            a vp schedule, sigma for ve and edm, and for flow sigma before its shift.
        start : int
            Leave out the first `start` steps, to begin with data that are noised to the noise level
            of the next one, as ``set_begin_index`` in diffusers. A multistep method begins anew, at
            low order.

        Raises
        ------
        InvalidArgument
            If none or contradicting steps, timesteps and sigmas are given, they are out of range,
            `start` leaves no step, or the prediction type cannot be used on this schedule.
        UnknownName
            If `compat` is unknown.
        """
        if compat is not None and compat not in COMPAT:
            raise UnknownName("compat", compat, COMPAT)
        path = self._path(schedule, steps, timesteps, sigmas, compat is not None).after(start)
        return self._build(schedule, path, compat is not None)

    def _path(
        self,
        schedule: Schedule,
        steps: int | None,
        timesteps: Sequence[float] | None,
        sigmas: Sequence[float] | None,
        compat: bool,
    ) -> Path:
        """Return the path of the run. A solver that chooses its own times overrides this."""
        return visit(schedule, self.rules, steps, timesteps, sigmas, compat=compat)

    @abstractmethod
    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        """Return the table that visits `path`."""

    def _assemble(
        self,
        schedule: Schedule,
        grid: Grid,
        update: npt.NDArray[np.float64],
        *,
        clip: float = np.inf,
        w: npt.ArrayLike = 0.0,
        order: npt.ArrayLike = 1,
        inner: npt.ArrayLike = False,
        **extra: Any,
    ) -> StepTable:
        """Return the table of `update`, with all that follows from the grid and the schedule."""
        n, scale = len(grid), schedule.data_scale
        p, q = denoised_coefficients(schedule.prediction_type, grid.alpha, grid.sigma, scale)
        return StepTable(
            name=self.name,
            prediction_type=schedule.prediction_type,
            update=update,
            p=p,
            q=q,
            clip=np.full(n, clip),
            t=grid.t,
            c_in=grid.c_in,
            alpha=grid.alpha,
            sigma=grid.sigma,
            alpha_to=grid.alpha_to,
            sigma_to=grid.sigma_to,
            w=np.broadcast_to(w, n),
            order=np.broadcast_to(order, n),
            inner=np.broadcast_to(inner, n),
            sigma_data=scale,
            raw_input=schedule.process in ("ve", "flow"),
            thresholding=thresholding(schedule),
            **extra,
        )

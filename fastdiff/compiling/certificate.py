"""The accuracy certificate: how far a candidate's outputs are from the float32 model's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastdiff.backends import Denoiser
from fastdiff.compiling.trajectory import Trajectory, evaluate, run_from

_FAR_SLACK = 4.0  # times the output's limit, for conditioning of which nobody says it is asked for
_TINY = 1e-12  # keeps the error of an output that should be all zeros a number


@dataclass(frozen=True)
class ErrorLimits:
    """The largest errors that a candidate may have.

    Attributes
    ----------
    output : float
        Relative L2 error of an output at any noise level.
    element : float
        Error of any one element, relative to the largest element of the reference's output.
    state : float
        Relative L2 error of the state after any step of a trajectory of its own.
    """

    output: float
    element: float
    state: float


LIMITS = {
    "float32": ErrorLimits(output=1e-4, element=1e-3, state=1e-3),
    "float16": ErrorLimits(output=2e-2, element=1e-1, state=1e-2),
    "bfloat16": ErrorLimits(output=5e-2, element=2e-1, state=5e-2),
    "int8": ErrorLimits(output=5e-2, element=2e-1, state=5e-2),
}


_LISTS = ("timesteps", "errors", "max_errors", "growth", "probe_errors", "far_errors")


@dataclass(frozen=True)
class Certificate:
    """Measured error of one candidate against the float32 model; prints as a table.

    Attributes
    ----------
    timesteps : tuple of float
        The noise levels at which outputs were compared, from noise to data; up to a fault.
    errors : tuple of float
        ``||candidate - reference||_2 / ||reference||_2`` of the output at each.
    max_errors : tuple of float
        ``max |candidate - reference| / max |reference|`` of the output at each.
    growth : tuple of float
        Relative L2 error of the state after each step, when the candidate runs the trajectory by
        itself and so meets its own errors again. Empty after a fault.
    limits : ErrorLimits
        What these may be.
    probe_errors : tuple of float
        As `errors`, for the null values and the ends of the stated ranges of conditioning.
    far_errors : tuple of float
        The same for conditioning of no stated range, far from zero. Four times the error may be
        there, and what is not finite is left out: sampling would say so.
    fault : str or None
        What no number tells: an output that is not finite, or constant where it should not be.
    """

    timesteps: tuple[float, ...]
    errors: tuple[float, ...]
    max_errors: tuple[float, ...]
    growth: tuple[float, ...]
    limits: ErrorLimits
    probe_errors: tuple[float, ...] = ()
    far_errors: tuple[float, ...] = ()
    fault: str | None = None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Certificate:
        """Read what ``dataclasses.asdict`` wrote."""
        lists = {name: tuple(float(value) for value in record[name]) for name in _LISTS}
        return cls(**lists, limits=ErrorLimits(**record["limits"]), fault=record["fault"])

    @property
    def error(self) -> float:
        """The largest of `errors`; NaN after a fault."""
        return math.nan if self.fault else max(self.errors)

    @property
    def sample_error(self) -> float:
        """Relative L2 error of the sample, at the end of `growth`; NaN after a fault."""
        return math.nan if self.fault else self.growth[-1]

    @property
    def refusal(self) -> str | None:
        """Why the candidate must not be used; None when it may."""
        if self.fault is not None:
            return self.fault
        for what, where, measured, limit in (
            ("output", self._level, self.errors, self.limits.output),
            ("largest element", self._level, self.max_errors, self.limits.element),
            ("trajectory", self._step, self.growth, self.limits.state),
            ("output", self._probe, self.probe_errors, self.limits.output),
            ("output", self._far, self.far_errors, _FAR_SLACK * self.limits.output),
        ):
            worst = max(measured, default=0.0)
            if worst > limit:
                place = where(measured.index(worst))
                return f"{what} error {worst:.1e} {place} is over {limit:.0e}"
        return None

    def _level(self, index: int) -> str:
        return f"at t = {self.timesteps[index]:.4g}"

    def _step(self, index: int) -> str:
        return f"after step {index + 1} of {len(self.growth)}"

    def _probe(self, index: int) -> str:
        return "for null values or ends of ranges of the conditioning"

    def _far(self, index: int) -> str:
        return "for conditioning far from zero (Conditioning(value_range=...) says what is asked)"

    def __str__(self) -> str:
        columns = [
            ["t", *(f"{t:.4g}" for t in self.timesteps), "limit"],
            ["output", *map(_short, self.errors), f"{self.limits.output:.0e}"],
            ["element", *map(_short, self.max_errors), f"{self.limits.element:.0e}"],
        ]
        if self.growth:
            columns.append(["state after", *map(_short, self.growth), f"{self.limits.state:.0e}"])
        lines = ["".join(cell.rjust(13) for cell in row) for row in zip(*columns, strict=True)]
        probed = max((*self.probe_errors, *self.far_errors), default=None)
        if probed is not None:
            lines.append(f"output for other conditioning: {_short(probed)}")
        return "\n".join([*lines, f"refused: {self.refusal}" if self.refusal else "passed"])


def certify(denoiser: Denoiser, reference: Trajectory) -> Certificate:
    """Measure `denoiser` at every input of `reference`, and along a trajectory of its own.

    The first fault ends it: what follows would tell nothing more.
    """
    limits = LIMITS[denoiser.precision]
    times: list[float] = []
    errors: list[float] = []
    max_errors: list[float] = []
    for x, t, expected in zip(
        reference.inputs, reference.table.t.tolist(), reference.outputs, strict=True
    ):
        got = evaluate(denoiser, x, t, reference.conditioning)
        fault = _fault(got, expected)
        if fault is not None:
            fault = f"{fault} at t = {t:.4g}"
            return Certificate(
                tuple(times), tuple(errors), tuple(max_errors), (), limits, fault=fault
            )
        times.append(t)
        errors.append(_relative(got, expected))
        max_errors.append(_largest(got, expected))
    own = run_from(denoiser, reference.table, reference.conditioning, reference.states[0])
    pairs = zip(own.states[1:], reference.states[1:], strict=True)
    growth = tuple(_relative(got, expected) for got, expected in pairs)
    if not all(map(math.isfinite, growth)):
        growth, fault = (), "a trajectory of its own does not stay finite"
    probed, far = _probe_errors(denoiser, reference)
    if not all(map(math.isfinite, probed)):
        probed = ()
        fault = fault or "its output is not finite for null values or ends of ranges"
    return Certificate(
        tuple(times), tuple(errors), tuple(max_errors), growth, limits, probed, far, fault
    )


def strays(got: Tensor, expected: Tensor, limits: ErrorLimits) -> bool:
    """Return whether an output is further from a finite one than a backend's may be."""
    near = _relative(got, expected) <= limits.output and _largest(got, expected) <= limits.element
    return bool(expected.isfinite().all()) and not near


def _probe_errors(
    denoiser: Denoiser, reference: Trajectory
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the errors for known and for far conditioning; those that are finite, of the latter.

    Integers are fitted to the conditioning of a sampling run, and nobody expects them to hold where
    that may never be: only what is stated is asked of them.
    """
    probes = reference.probes
    if not len(probes.outputs):
        return (), ()
    outputs = reference.probe(denoiser, probes.conditioning)
    errors = [_relative(*pair) for pair in zip(outputs, probes.outputs, strict=True)]
    far = [error for error, far in zip(errors, probes.far, strict=True) if far]
    known = [error for error, far in zip(errors, probes.far, strict=True) if not far]
    if denoiser.precision == "int8":
        far = []
    return tuple(known), tuple(filter(math.isfinite, far))


def _short(error: float) -> str:
    return f"{error:.1e}"


def _fault(got: Tensor, expected: Tensor) -> str | None:
    if not expected.isfinite().all():
        return "the float32 model's own output is not finite"
    if not got.isfinite().all():
        return "its output is not finite"
    if (_constant(got) & ~_constant(expected)).any():
        return "its output is constant, which the float32 model's is not,"
    return None


def _constant(output: Tensor) -> Tensor:
    """Return which rows of (R, ...) have the same number everywhere."""
    rows = output.flatten(1)
    return rows.amax(1) == rows.amin(1)


def _relative(got: Tensor, expected: Tensor) -> float:
    """Return the relative L2 error, NaN if either is not finite."""
    return float((got - expected).norm() / expected.norm().clamp_min(_TINY))


def _largest(got: Tensor, expected: Tensor) -> float:
    """Return the largest error of an element, relative to the largest element."""
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(_TINY))

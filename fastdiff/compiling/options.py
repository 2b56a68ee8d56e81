"""What a caller may decide about compiling, checked in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastdiff.backends import BACKENDS
from fastdiff.backends.base import PRECISIONS
from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling.checks import plain

BUDGETS = {"fast": 4.0, "full": 60.0}
_EVALUATIONS = 30
VERIFY = ("strict", "warn", "off")


@dataclass(frozen=True)
class CompileOptions:
    """The caller's choices; the defaults leave everything to measurement.

    Attributes
    ----------
    backend, precision : str
        ``"auto"``, or the name of a backend, or of a precision. ``"int8"`` is tried only when
        it is named.
    max_batch : int or None
        Rows per denoiser call; None measures several sizes. Rows that couple get calls of their own
        whatever it says.
    tune : str or float
        ``"fast"`` (4 s, or 30 evaluations where they take longer), ``"full"`` (a minute, and
        backends that are slow to build), or a time to spend on measuring in seconds.
    verify : str
        What happens to a candidate that fails its certificate: ``"strict"`` refuses it, ``"warn"``
        keeps it with a warning, ``"off"`` makes no certificate.

    Raises
    ------
    UnknownName, InvalidArgument
        A value is none of these.
    """

    backend: str = "auto"
    precision: str = "auto"
    max_batch: int | None = None
    tune: str | float = "fast"
    verify: str = "strict"

    def __post_init__(self) -> None:
        _known("backend", self.backend, ("auto", *BACKENDS))
        _known("precision", self.precision, ("auto", *PRECISIONS))
        _known("verify", self.verify, VERIFY)
        for name in ("max_batch", "tune"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if self.max_batch is not None and not _positive(self.max_batch, int):
            raise InvalidArgument(f"max_batch: expected at least 1, got {self.max_batch!r}")
        if isinstance(self.tune, str):
            _known("tune", self.tune, BUDGETS)
        elif not _positive(self.tune, (int, float)):
            raise InvalidArgument(f"tune: expected seconds over 0, got {self.tune!r}")

    def budget_seconds(self, evaluation_seconds: float) -> float:
        """Return the time to spend on measuring.

        Parameters
        ----------
        evaluation_seconds : float
            What an evaluation by the float32 module took: ``"fast"`` is longer where that is slow,
            or too few batch sizes would be seen.
        """
        if not isinstance(self.tune, str):
            return float(self.tune)
        least = BUDGETS[self.tune]
        return max(least, min(_EVALUATIONS * evaluation_seconds, BUDGETS["full"]))


def _known(kind: str, value: Any, known: Any) -> None:
    if value not in known:
        raise UnknownName(kind, value, known)


def _positive(value: Any, kinds: Any) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and value > 0

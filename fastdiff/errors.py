"""Every exception that fastdiff raises on purpose.

::

    FastdiffError
    ├── InvalidArgument (ValueError)        an argument has the wrong value
    │   ├── InvalidShape                    an array has the wrong shape
    │   ├── InvalidDtype (TypeError)        an array has the wrong element type
    │   └── UnknownName                     a name that no registry holds
    ├── TableError (ValueError)             a solver table fails its own proof
    ├── ArtifactError (ValueError)          a saved sampler is corrupt or of another format
    ├── WeightsError (ValueError)           a weights file is corrupt or does not fit the model
    ├── Unavailable (RuntimeError)          a backend or kernel cannot run on this machine
    └── SamplingError (RuntimeError)
        ├── ModelOutputError                the model returned something unusable
        │   └── NonFiniteOutput (ArithmeticError)
        └── Cancelled                       a callback stopped the request

Each leaf also inherits the built-in that a caller would catch.
"""

from __future__ import annotations

from collections.abc import Iterable


class FastdiffError(Exception):
    """Root of every exception that fastdiff raises on purpose."""


class InvalidArgument(FastdiffError, ValueError):
    """An argument has a value that cannot be used."""


class InvalidShape(InvalidArgument):
    """An array has the wrong shape."""


class InvalidDtype(InvalidArgument, TypeError):
    """An array has the wrong element type."""


class UnknownName(InvalidArgument):
    """A name that no registry holds.

    Parameters
    ----------
    kind : str
        What was looked up, such as ``"solver"``.
    name : object
        What was asked for.
    known : iterable of str
        What there is.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


class TableError(FastdiffError, ValueError):
    """A solver table fails one of the identities that it must satisfy."""


class ArtifactError(FastdiffError, ValueError):
    """A saved sampler is corrupt, was tampered with, or has a format this version cannot read."""


class WeightsError(FastdiffError, ValueError):
    """A weights file is corrupt, or does not fit the model."""


class AssumptionWarning(UserWarning):
    """Something that decides the images was neither given nor told by the model, but assumed."""


class AccuracyWarning(UserWarning):
    """A candidate that strays from the float32 model is used because the caller said so."""


class CacheWarning(UserWarning):
    """A compiled model cannot be kept for the next time."""


class DeviationWarning(UserWarning):
    """A pipeline of diffusers is not followed where it gives wrong images."""


class KernelWarning(UserWarning):
    """A GPU kernel gave wrong results in the check of its first use, and is not used."""


class Unavailable(FastdiffError, RuntimeError):
    """A backend or a kernel cannot run on this machine; the message says what would help."""


class SamplingError(FastdiffError, RuntimeError):
    """A request failed while it was being sampled."""


class ModelOutputError(SamplingError):
    """The model returned something that cannot be used."""


class NonFiniteOutput(ModelOutputError, ArithmeticError):
    """The model returned NaN or infinity.

    Attributes
    ----------
    step : int
        Evaluation, counted from 0, at which it happened.
    total : int
        Evaluations of the whole request.
    image : int
        Position of the image in its request.
    """

    def __init__(self, step: int, total: int, image: int, timestep: float) -> None:
        super().__init__(
            f"the model's output is not finite at step {step + 1} of {total} "
            f"(t = {timestep:g}) for image {image}; try precision='float32', or check the weights"
        )
        self.step, self.total, self.image, self.timestep = step, total, image, timestep


class Cancelled(SamplingError):
    """A callback stopped the request."""


class Overloaded(FastdiffError, RuntimeError):
    """A server's queue is full.

    Attributes
    ----------
    retry_after : float
        Seconds after which there will probably be room.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineImpossible(FastdiffError, TimeoutError):
    """A request cannot be done by its deadline.

    Attributes
    ----------
    estimate_seconds : float
        How long it would take.
    """

    def __init__(self, message: str, estimate_seconds: float) -> None:
        super().__init__(message)
        self.estimate_seconds = estimate_seconds

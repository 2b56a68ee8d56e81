"""What the listener of a job hears, on the thread of the job's worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor


@dataclass(frozen=True)
class Started:
    """The job's first rows take their first step.

    Attributes
    ----------
    queue_seconds : float
        Since the job's arrival.
    """

    queue_seconds: float


@dataclass(frozen=True)
class Progress:
    """Some rows took a step; sent if the listener asked for it.

    Attributes
    ----------
    step, total : int
        Steps behind these images, and until they are done.
    images : ndarray
        (k,) int: which images of the job.
    denoised : Tensor
        (k, C, H, W) float32: estimates of x0, a copy.
    """

    step: int
    total: int
    images: npt.NDArray[np.int64]
    denoised: Tensor


@dataclass(frozen=True)
class Finished:
    """The job is done.

    Attributes
    ----------
    samples : Tensor
        (n, C, H, W) float32.
    queue_seconds, run_seconds : float
        From the job's arrival to its first step, and from there to the end.
    """

    samples: Tensor
    queue_seconds: float
    run_seconds: float


@dataclass(frozen=True)
class Failed:
    """The job ended without images.

    Attributes
    ----------
    error : BaseException
        `fastdiff.errors.Cancelled` if somebody cancelled it or it could not meet its deadline,
        `NonFiniteOutput` with the step, or what the engine raised.
    """

    error: BaseException


Event = Started | Progress | Finished | Failed
Listener = Callable[[Event], None]

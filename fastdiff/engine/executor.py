"""The two seams under the engine.

`Executor` divides policy from execution: the engine decides who runs, an executor owns the memory
and takes the steps. `Device` divides the graph executor from torch.cuda: streams, events, pinned
memory and graphs, which a test can put a recording in place of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastdiff.backends import Denoiser
from fastdiff.engine.requests import Passes, Request

T = TypeVar("T")
Slots = npt.NDArray[np.int64]
Records = npt.NDArray[np.void]


def upload(values: npt.NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Return host values in `device`'s memory, without waiting for the work that it has.

    torch keeps the pinned copy until the transfer is over.
    """
    tensor = torch.as_tensor(values)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class StepResult:
    """What the host learns of a step.

    Attributes
    ----------
    flags : ndarray
        (B,) uint8, not 0 for rows whose model output or new state is not finite.
    samples : Tensor or None
        (k, C, ...) float32: the state of the rows that left with this step. Valid until the
        step after the next is launched.
    """

    flags: npt.NDArray[np.uint8]
    samples: Tensor | None

    def wait(self) -> StepResult:
        """Return at once: this is the result of a step that was taken while it was launched."""
        return self


class Launched(Protocol):
    """A step that has been launched."""

    def wait(self) -> StepResult:
        """Return the result once it is there."""
        ...


class Executor(Protocol):
    """Owns the memory of all slots and takes the steps; knows no requests' owners.

    Calls come from one thread at a time.
    """

    @property
    def batch_seconds(self) -> Mapping[int, float]:
        """Time of a denoiser call by the sizes that are used."""
        ...

    @property
    def lag(self) -> int:
        """Launched steps whose results may be looked at later.

        0 where launching takes the step, 1 where the device works while the host goes on.
        """
        ...

    def prepare(self, evaluations: int) -> None:
        """Do beforehand what the first steps of up to `evaluations` evaluations would do."""
        ...

    def replace(self, denoiser: Denoiser, batch_seconds: Mapping[int, float]) -> None:
        """Evaluate another denoiser, of the same dtypes and shapes: no row runs."""
        ...

    def admit(self, request: Request, slots: Slots, indices: Slots) -> int:
        """Set rows `indices` of `request` up in `slots`; return the index of its table's row 0."""
        ...

    def trim(self) -> None:
        """Forget tables if there are many: no row runs."""
        ...

    def arrange(self, rows: Records, passes: Passes) -> None:
        """Lay out the evaluations of `rows`, the batch of the next steps.

        Parameters
        ----------
        rows : ndarray
            (B,) BATCH_ROW; gets its `cond` and `uncond`.
        passes : Passes
            What these rows need together; `read_denoised` is called only if it says so.
        """
        ...

    def launch(self, rows: Records, leaving: Slots | None) -> Launched:
        """Take a step of `rows`, as arranged; its result brings the state of slots `leaving`.

        `rows` may change as soon as this returns.
        """
        ...

    def read_denoised(self, slots: Slots) -> Tensor:
        """Return a copy of the last x0 estimates of `slots`, (k, C, ...) float32."""
        ...

    def read_state(self, slots: Slots) -> Tensor:
        """Return a copy of x of `slots` after the last step, (k, C, ...) float32."""
        ...


class Event(Protocol):
    """A moment in the work of a stream."""

    def synchronize(self) -> None:
        """Let the host wait for it."""
        ...


class CapturedGraph(Protocol):
    """Work that was captured once and is launched as one."""

    @property
    def bytes(self) -> int:
        """Device memory that it holds."""
        ...

    def replay(self) -> None:
        """Launch it on the stream it was captured for."""
        ...


class Stream(Protocol):
    """A queue of device work: what was put in first is done first."""

    def run(self, work: Callable[[], T]) -> T:
        """Call `work`, whose torch operators run on this stream."""
        ...

    def enqueue(self, work: Callable[[], object]) -> None:
        """As `run`, for work of torch operators alone; the host sees nothing of it."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy between pinned host memory and the device, without waiting for it."""
        ...

    def record(self) -> Event:
        """Mark the end of the work so far."""
        ...

    def wait(self, event: Any) -> None:
        """Begin what comes next after `event`, one of this device's."""
        ...

    def synchronize(self) -> None:
        """Let the host wait for all work so far."""
        ...


class Device(Protocol):
    """What the graph executor asks of a machine."""

    @property
    def memory(self) -> torch.device:
        """Where tensors live."""
        ...

    @property
    def graph_bytes(self) -> int:
        """Device memory that graphs and their static buffers may hold together."""
        ...

    def stream(self) -> Stream:
        """Return a new stream."""
        ...

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return host memory that `Stream.copy` takes."""
        ...

    def capture(self, work: Callable[[], None], stream: Any) -> CapturedGraph:
        """Warm `work` up, then record what it launches; `stream`, of this device, replays it.

        Raises
        ------
        Exception
            Whatever keeps `work` from being captured, such as waiting for the device.
        """
        ...

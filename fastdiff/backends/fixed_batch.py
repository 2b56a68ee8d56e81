"""A denoiser whose calls all take the same number of rows, made to take any."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastdiff.backends.base import Denoiser


class FixedBatch(Denoiser):
    """Cuts what it is given into calls of `rows` rows; a last one that is short repeats a row.

    Parameters
    ----------
    denoiser : Denoiser
        Of a network whose batch axis is fixed.
    rows : int
        What every call of it takes.
    """

    def __init__(self, denoiser: Denoiser, rows: int) -> None:
        self.denoiser, self.rows = denoiser, rows
        self.backend, self.precision, self.device = (
            denoiser.backend,
            denoiser.precision,
            denoiser.device,
        )
        self.input_dtype, self.output_dtype = denoiser.input_dtype, denoiser.output_dtype
        self.output_channels = denoiser.output_channels
        self.eager_because = denoiser.eager_because
        self.rows_are_independent = denoiser.rows_are_independent
        self.own_threads = denoiser.own_threads

    @property
    def version(self) -> object:
        """What changes when what a captured call refers to does."""
        return self.denoiser.version

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        calls = []
        for start in range(0, len(x), self.rows):
            part = slice(start, start + self.rows)
            bind = self.denoiser.bind if start + self.rows <= len(x) else self._bind_padded
            own = {name: value[part] for name, value in conditioning.items()}
            calls.append(bind(x[part], t[part], own, out[part]))
        if len(calls) == 1:
            return calls[0]

        def run() -> None:
            for call in calls:
                call()

        return run

    def _bind_padded(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        """Bind a call on buffers of its own, which hold the given rows and copies of the last."""
        pick = torch.arange(self.rows, device=x.device).clamp_max(len(x) - 1)
        padded = {name: value[pick] for name, value in conditioning.items()}
        x_padded, t_padded = x[pick], t[pick]
        whole = out.new_empty(self.rows, *out.shape[1:])
        call = self.denoiser.bind(x_padded, t_padded, padded, whole)
        pairs = [(x, x_padded), (t, t_padded)]
        pairs += [(value, padded[name]) for name, value in conditioning.items()]

        def run() -> None:
            for given, own in pairs:
                torch.index_select(given, 0, pick, out=own)
            call()
            out.copy_(whole[: len(out)])

        return run

    def trim(self, batches: Collection[int]) -> None:
        """Let the denoiser go of what it holds for other sizes."""
        self.denoiser.trim([self.rows])

    def save(self, folder: Path, batches: Collection[int]) -> None:
        """Let the denoiser write what it compiled for its one size."""
        self.denoiser.save(folder, [self.rows])


def row_by_row(denoiser: Denoiser) -> Denoiser:
    """Return `denoiser`, made to evaluate each row in a call of its own."""
    return FixedBatch(denoiser, 1)

"""The memory of the passes that some requests need around a step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastdiff.engine.executor import upload
from fastdiff.engine.requests import Blend, Passes, Request
from fastdiff.kernels.passes import Kept, adapt, adaptation, blend


class PassBuffers:
    """What the passes know of each slot; allocated when a request first needs it.

    Parameters
    ----------
    capacity, numel : int
        Slots, and elements of an image.
    device : torch.device
    """

    def __init__(self, capacity: int, numel: int, device: torch.device) -> None:
        self._capacity, self._numel, self._device = capacity, numel, device
        self._adaptations: Tensor | None = None
        self._kept: Kept | None = None

    def admit(
        self, request: Request, where: Tensor, pick: Tensor, fill_noise: Callable[[Tensor], object]
    ) -> None:
        """Take over what images `pick` of `request` need in slots `where`.

        Parameters
        ----------
        request : Request
        where : (k,) int64 Tensor
            On the device.
        pick : (k,) int64 Tensor
            On the host.
        fill_noise : callable
            Fills a (k, n) float32 tensor with the initial noise of these images.
        """
        if request.passes.adapted or self._adaptations is not None:
            self._note_adaptation(request, where)
        if request.blend is not None:
            self._keep(request.blend, where, pick, fill_noise)
        elif self._kept is not None:
            self._kept.active[where] = False

    def adapt(
        self, passes: Passes, table: Tensor, rows: Tensor, state: Tensor, output: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the table and the records for the step, as `fastdiff.kernels.passes.adapt`."""
        if self._adaptations is None:
            return table, rows
        return adapt(
            table,
            rows,
            self._adaptations,
            state,
            output,
            rescale=passes.rescaled,
            threshold=passes.thresholded,
        )

    def blend(
        self, table: Tensor, levels: Tensor, rows: Tensor, state: Tensor, inputs: Tensor
    ) -> None:
        """Blend after the step, as `fastdiff.kernels.passes.blend`."""
        if self._kept is not None:
            blend(table, levels, rows, self._kept, state, inputs)

    def _note_adaptation(self, request: Request, where: Tensor) -> None:
        if self._adaptations is None:
            nothing = torch.tensor([adaptation(numel=self._numel)], dtype=torch.float64)
            self._adaptations = upload(nothing.repeat(self._capacity, 1), self._device)
        asked = request.table.thresholding
        asked_for = adaptation(
            request.guidance_rescale,
            None if asked is None else asked.ratio,
            1.0 if asked is None else asked.max_value,
            numel=self._numel,
        )
        self._adaptations[where] = upload(
            torch.tensor(asked_for, dtype=torch.float64), self._device
        )

    def _keep(
        self, known: Blend, where: Tensor, pick: Tensor, fill_noise: Callable[[Tensor], object]
    ) -> None:
        if self._kept is None:
            size = (self._capacity, self._numel)
            mask, images, noise = (
                torch.empty(size, dtype=torch.float32, device=self._device) for _ in range(3)
            )
            active = torch.zeros(self._capacity, dtype=torch.bool, device=self._device)
            self._kept = Kept(active, mask, images, noise)
        kept, device = self._kept, self._device
        noise = torch.empty(len(pick), self._numel, dtype=torch.float32, device=device)
        fill_noise(noise)
        kept.active[where], kept.noise[where] = True, noise
        kept.images[where] = upload(known.images[pick].flatten(1), device)
        kept.mask[where] = upload(known.mask[pick].flatten(1), device)

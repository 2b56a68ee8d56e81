"""The pass after a step that keeps a known image outside of a mask: inpainting.

    x = mask x + (1 - mask) (alpha image + sigma noise)

alpha and sigma are those of the noise level at which the step ends, as RePaint does it for the
known region (arXiv 2201.09865, eq. 8). Where the mask and sigma are 0, x is exactly the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdiff.kernels.passes.columns import TABLE, BatchColumns


@dataclass(frozen=True)
class Kept:
    """The known image in each slot.

    Attributes
    ----------
    active : (S,) bool
        Whether the row in the slot is blended. If not, the other tensors are not read for it.
    mask : (S, n) float32
        1 where the image is painted anew, 0 where it is kept.
    images : (S, n) float32
        Clean data.
    noise : (S, n) float32
        Standard normal.
    """

    active: Tensor
    mask: Tensor
    images: Tensor
    noise: Tensor


def blend(
    table: Tensor, levels: Tensor, rows: Tensor, kept: Kept, state: Tensor, inputs: Tensor
) -> None:
    """Blend the rows of a batch that are active, in place, after the step kernel.

    Parameters
    ----------
    table : (R, 96) uint8
        TABLE_ROW records.
    levels : (R, 2) float32
        The noise level, alpha and sigma, at which each table row ends.
    rows : (B, 40) uint8
        BATCH_ROW records. Padding writes to the last slot, which must be unused if there is any.
    kept : Kept
    state : (S, n) float32
        x of each slot.
    inputs : (S, n) float32, bfloat16 or float16
        Gets c_in_next x.
    """
    batch = BatchColumns(rows)
    slots = batch.slots(padding=len(state) - 1)
    index = batch.index("table_row")
    alpha, sigma = levels.index_select(0, index)[:, :, None].unbind(1)
    c_in = table.index_select(0, index).view(torch.float32)[:, TABLE["c_in_next"], None]
    x, images, noise, mask = (
        values.index_select(0, slots) for values in (state, kept.images, kept.noise, kept.mask)
    )
    blended = mask * x + (1.0 - mask) * (alpha * images + sigma * noise)
    active = kept.active.index_select(0, slots)[:, None]
    state.index_copy_(0, slots, torch.where(active, blended, x))
    following = torch.where(
        active, (c_in * blended).to(inputs.dtype), inputs.index_select(0, slots)
    )
    inputs.index_copy_(0, slots, following)

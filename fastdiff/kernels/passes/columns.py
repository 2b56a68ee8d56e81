"""Access from torch to the records of docs/contracts.md, which are tensors of bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastdiff.records import BATCH_ROW, TABLE_ROW


def _words(record: np.dtype[np.void]) -> dict[str, int]:
    """Return for each field the index of its first 4-byte word."""
    return {name: offset // 4 for name, (_, offset, *_) in (record.fields or {}).items()}


TABLE = _words(TABLE_ROW)
_BATCH = _words(BATCH_ROW)


class BatchColumns:
    """The columns of (B, 40) uint8 BATCH_ROW records, for indexing.

    The fields of a padding record have old values of earlier batches, so they are read as 0.
    """

    def __init__(self, rows: Tensor) -> None:
        words = rows.view(torch.int32)
        self._slot = words[:, _BATCH["slot"]]
        self._words = torch.where((self._slot >= 0)[:, None], words, 0)

    def index(self, field: str) -> Tensor:
        """Return an int32 field, (B,) int64."""
        return self._words[:, _BATCH[field]].long()

    def number(self, field: str) -> Tensor:
        """Return a float32 field, (B, 1)."""
        column = _BATCH[field]
        return self._words.view(torch.float32)[:, column : column + 1]

    def slots(self, padding: int) -> Tensor:
        """Return the slots of the rows, (B,) int64; `padding` for those that are padding."""
        return torch.where(self._slot >= 0, self._slot, padding).long()


def with_own_table(rows: Tensor) -> Tensor:
    """Return a copy of (B, 40) uint8 records in which record i points to table row i."""
    own = rows.clone()
    own.view(torch.int32)[:, _BATCH["table_row"]] = torch.arange(
        len(rows), dtype=torch.int32, device=rows.device
    )
    return own

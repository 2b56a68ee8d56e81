"""The pass before a step for what depends on the whole image: thresholding and guidance rescale.

Each of the two gives one number for a row, which changes the row's own copy of its table row. For
rows that do not ask for them, k = 1 and s = 1:

    k = phi std(m_c) / std(m) + 1 - phi                        guidance rescale
    s = clamp(quantile(|p x + q k m|, ratio), 1, max_value)    dynamic thresholding
    p' = p / s,  q' = q k / s,  clip' = 1                      D = clip(p x + q k m, -s, s) / s
    x'[m] = k x[m],  h'[m] = k h[m]

The sources are arXiv 2305.08891, eq. 15 and 16, and arXiv 2205.11487, sec. 2.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastdiff.kernels.passes.columns import TABLE, BatchColumns, with_own_table

_PHI, _RANK, _LIMIT = range(3)
_M = 6  # column of m in x and h
_X_M, _H_M = TABLE["x"] + _M, TABLE["h"] + _M


def adaptation(
    rescale: float = 0.0, ratio: float | None = None, limit: float = 1.0, *, numel: int
) -> list[float]:
    """Return the three numbers that `adapt` reads for a slot.

    Parameters
    ----------
    rescale : float
        phi of guidance rescale, 0 to 1; 0 for none.
    ratio : float or None
        Quantile of dynamic thresholding, 0 to 1; None for none.
    limit : float
        The max_value of dynamic thresholding.
    numel : int
        Elements of an image, n. The quantile lies at rank ``ratio (n - 1)`` of the sorted values
        and is linear between neighbours, as in ``torch.quantile``.
    """
    rank = -1.0 if ratio is None else ratio * (numel - 1)
    return [rescale, rank, limit]


def adapt(
    table: Tensor,
    rows: Tensor,
    wishes: Tensor,
    state: Tensor,
    output: Tensor,
    *,
    rescale: bool,
    threshold: bool,
) -> tuple[Tensor, Tensor]:
    """Return the table rows and the records that the step kernel is then called with.

    Parameters
    ----------
    table : (R, 96) uint8
        TABLE_ROW records.
    rows : (B, 40) uint8
        BATCH_ROW records, padding included.
    wishes : (S, 3) float64
        What `adaptation` returns, for each slot.
    state : (S, n) float32
        x of each slot.
    output : (E, m) float32, bfloat16 or float16
        What the denoiser returned.
    rescale, threshold : bool
        Whether any row asks for it. Otherwise it is not computed.

    Returns
    -------
    table : (B, 96) uint8
        A copy of the table row of each record, adapted. Rows that ask for nothing keep their bits.
        If k or s is not finite, neither is the result of the step.
    rows : (B, 40) uint8
        The records, which refer to these table rows.
    """
    batch = BatchColumns(rows)
    slots, n = batch.index("slot"), state.shape[1]
    own = table.index_select(0, batch.index("table_row"))
    wish = wishes.index_select(0, slots)
    m_c, m, guided = _outputs(batch, output, n)
    c = own.view(torch.float32)
    if rescale:
        phi = wish[:, _PHI : _PHI + 1].float()
        k = torch.where(guided & (phi > 0), _rescale_factor(m_c, m, phi), 1.0)
        for column in (TABLE["q"], _X_M, _H_M):
            c[:, column : column + 1] *= k
    if threshold:
        p, q, clip = (c[:, TABLE[name] : TABLE[name] + 1] for name in ("p", "q", "clip"))
        rank, limit = wish[:, _RANK : _RANK + 1], wish[:, _LIMIT : _LIMIT + 1].float()
        D = p * state.index_select(0, slots) + q * m
        s = torch.where(rank >= 0, _quantile(D.abs(), rank).clamp(min=1.0).minimum(limit), 1.0)
        p /= s
        q /= s
        clip.copy_(torch.where(rank >= 0, 1.0, clip))
    return own, with_own_table(rows)


def _outputs(batch: BatchColumns, output: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return m_c and m, (B, n) float32, and whether a row is guided, (B, 1) bool."""
    conditional, unconditional = batch.index("cond"), batch.index("uncond")
    guided = unconditional >= 0
    m_c, m_u = (
        output.index_select(0, branch)[:, :n].float()
        for branch in (conditional, torch.where(guided, unconditional, conditional))
    )
    return m_c, m_u + (m_c - m_u) * batch.number("guidance"), guided[:, None]


def _rescale_factor(m_c: Tensor, m: Tensor, phi: Tensor) -> Tensor:
    """Return k, (B, 1), which is 1 where m is constant."""
    values = torch.stack([m_c, m])
    deviations = values - _sum(values) / values.shape[-1]
    squares = _sum(deviations * deviations)
    k = phi * torch.sqrt(squares[0] / squares[1]) + (1.0 - phi)
    # A row whose deviation overflows must fail, even if a clip would hide that k is infinite.
    k = torch.where(k.isfinite(), k, math.nan)
    return torch.where(squares[1] == 0, 1.0, k)


def _sum(values: Tensor) -> Tensor:
    """Return the sum over the last axis, which is kept.

    Halves are added repeatedly: an order of additions that no batch and no device changes.
    """
    while (n := values.shape[-1]) > 1:
        half = n // 2
        pairs = values[..., :half] + values[..., half : 2 * half]
        values = torch.cat([pairs, values[..., -1:]], -1) if n % 2 else pairs
    return values


def _quantile(values: Tensor, rank: Tensor) -> Tensor:
    """Return the values at a fractional `rank`, (B, 1) float64, of the sorted rows of (B, n)."""
    # torch.quantile takes at most 2^24 elements, and one rank for all rows.
    ascending = values.sort(dim=1).values
    lower = rank.floor().clamp(min=0.0)
    below = lower.long()
    above = (below + 1).clamp(max=values.shape[1] - 1)
    low, high = ascending.gather(1, below), ascending.gather(1, above)
    return low + (rank - lower).float() * (high - low)

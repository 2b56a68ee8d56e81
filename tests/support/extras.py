"""Requests that need more than a plain step, for tests that mix them with plain ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from hypothesis import strategies as st

from fastdiff.engine.requests import Blend, GuidedSteps, Request, Start
from fastdiff.sampling import PackedTable, Thresholding

NAMES = ("blend", "guided", "latents", "negative", "rescale", "start", "threshold")
EXTRAS = st.lists(st.sampled_from(NAMES), max_size=4, unique=True).map(sorted)

_THRESHOLDED: dict[int, tuple[PackedTable, PackedTable]] = {}


def thresholded(table: PackedTable) -> PackedTable:
    """Return the one thresholded copy of `table`."""
    if id(table) not in _THRESHOLDED:
        _THRESHOLDED[id(table)] = (table, replace(table, thresholding=Thresholding(0.8, 1.7)))
    return _THRESHOLDED[id(table)][1]


def with_extras(request: Request, names: Iterable[str], shape: tuple[int, int, int]) -> Request:
    """Return `request` with some of `NAMES`; data are a function of its first seed."""
    n, names = request.rows, set(names)
    generator = torch.Generator().manual_seed(int(request.seeds[0] % 1000))
    images, noise = torch.randn(2, n, *shape, generator=generator)
    mask = torch.rand(n, *shape, generator=generator).mul(1.5).clamp(max=1.0)
    if "threshold" in names:
        request.table = thresholded(request.table)
    if "start" in names:
        request.start = Start(images, *request.table.levels[0].tolist())
    if "blend" in names:
        request.blend = Blend(images, mask)
    if "latents" in names:
        request.latents = noise
    if "negative" in names:
        request.negative = {"class_labels": torch.arange(n) % 3}
    if "rescale" in names:
        request.guidance_rescale = 0.7
    if "guided" in names:
        request.guided = GuidedSteps(np.arange(request.steps) % 3 != 1)
    return request

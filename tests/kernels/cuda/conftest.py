from __future__ import annotations

from collections.abc import Iterator

import pytest
from emulated_cuda import emulated_cuda
from emulator import SCHEDULES, Library, Schedule


@pytest.fixture(scope="module")
def emulated() -> Iterator[Library]:
    """The CUDA kernels run on CPU tensors, through the emulator."""
    with emulated_cuda() as library:
        yield library


@pytest.fixture(params=SCHEDULES[::3], ids=str)
def schedule(request: pytest.FixtureRequest, emulated: Library) -> Iterator[Schedule]:
    """One schedule of each order; the kernels here have no cp.async."""
    with emulated.schedule(request.param):
        yield request.param

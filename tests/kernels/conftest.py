from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdiff import _native, kernels


@pytest.fixture(scope="session")
def known_answers() -> dict[str, Any]:
    path = Path(__file__).parents[1] / "data" / "noise_known_answers.json"
    answers: dict[str, Any] = json.loads(path.read_text())
    return answers


@pytest.fixture(params=sorted(_native.levels()))
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every level of the step in turn; those that this CPU lacks are skipped."""
    if reason := kernels.cpu_levels()[request.param]:
        pytest.skip(reason)
    with kernels.use_level(request.param):
        yield request.param


@pytest.fixture(params=[1, 3], ids=["1 thread", "3 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)

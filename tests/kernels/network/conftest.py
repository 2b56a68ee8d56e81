from __future__ import annotations

import pytest

from fastdiff import _native


@pytest.fixture(params=list(_native.network_levels()))
def level(request: pytest.FixtureRequest) -> str:
    """Every level of the native backend's kernels; those that this CPU lacks are skipped."""
    if reason := _native.network_levels()[request.param]:
        pytest.skip(reason)
    return str(request.param)

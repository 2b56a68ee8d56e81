from __future__ import annotations

import pytest

from .device import INTERPRETING

collect_ignore = [] if INTERPRETING else ["test_bounds.py"]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Outside the interpreter, these are tests of a GPU."""
    if not INTERPRETING:
        item.add_marker("gpu")

"""The solver that docs/solvers.md shows is complete and right."""

import re
from pathlib import Path

import numpy as np
import pytest

from fastdiff.errors import TableError
from fastdiff.sampling import Schedule, get_solver, run_table
from fastdiff.sampling.solvers.base import REGISTRY

PAGE = Path(__file__).parents[2] / "docs" / "solvers.md"


def define(source):
    exec(compile(source, str(PAGE), "exec"), {"__name__": __name__})  # noqa: S102 - our own text


def test_the_example_solver_works_as_written():
    example = re.search(r"```python\n(from dataclasses.*?)```", PAGE.read_text(), re.S).group(1)
    try:
        define(example)
        table = get_solver("renoise").table(Schedule(clip_sample=False), 4)
        x, m, z = np.random.default_rng(0).standard_normal((3, 5))
        got = run_table(table, lambda *_: m, x, [z] * 4)[0]
        D = (x - table.sigma[0] * m) / table.alpha[0]
        np.testing.assert_allclose(got, table.alpha_to[0] * D + table.sigma_to[0] * z)
        define(example.replace("= grid.sigma_to", "= 0.9"))
        spacing = Schedule(timestep_spacing="trailing")
        with pytest.raises(TableError) as wrong:
            get_solver("renoise").table(spacing, 5)
        assert str(wrong.value) in PAGE.read_text()
    finally:
        REGISTRY.pop("renoise", None)


def test_every_solver_is_documented():
    page = PAGE.read_text()
    for name in REGISTRY:
        assert f"| `{name}` |" in page

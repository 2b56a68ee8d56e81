"""Packages that tests import and an installation may lack: a module that needs one is skipped.

What fastdiff itself depends on, pytest and hypothesis must be there.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

EXTRAS = {
    "diffusers": "diffusers",
    "httpx": "serve",
    "openai": "test",
    "openvino": "openvino",
    "peft": "test",
    "plotly": "bench",
    "prometheus_client": "serve",
    "pybind11": "test",
    "pydantic": "serve",
    "ray": "ray",
    "sklearn": "train",
    "starlette": "serve",
    "tensorrt_rtx": "tensorrt-rtx",
    "transformers": "diffusers",
    "triton": "gpu",
    "uvicorn": "serve",
}
"""By the name that is imported: the extra of fastdiff that brings it."""


class Module(pytest.Module):
    """A module of tests whose import may lack an optional package, its own or that of a helper."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Import the module; skip it with the reason if a package of `EXTRAS` is missing."""
        try:
            return super().collect()
        except Exception as error:
            if package := missing_package(error):
                pytest.skip(
                    f"needs {package}: pip install 'fastdiff-runtime[{EXTRAS[package]}]'",
                    allow_module_level=True,
                )
            raise


def missing_package(error: BaseException | None) -> str | None:
    """Return the package of `EXTRAS` whose absence is behind `error`, None if none is."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
            return error.name
        error = error.__cause__
    return None

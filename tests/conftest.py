"""Keep the tests away from the user's cache, and parallel workers from each other's cores.

Where an optional package is missing, the modules that need it are skipped.
"""

import os

import pytest
from hypothesis import settings
from optional_packages import Module

settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")

if "PYTEST_XDIST_WORKER" in os.environ:  # of pytest -n; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_pycollect_makemodule(module_path, parent):
    """Collect modules that lack an optional package as skipped."""
    return Module.from_parent(parent, path=module_path)


@pytest.fixture(autouse=True, scope="session")
def own_cache(pytestconfig, tmp_path_factory):
    """Give the whole run one cache of its own, which parallel workers share."""
    folder = tmp_path_factory.getbasetemp()
    if hasattr(pytestconfig, "workerinput"):
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTDIFF_CACHE", str(folder / "cache"))
        yield

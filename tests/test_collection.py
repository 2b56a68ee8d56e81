"""The suite is collected where optional packages are missing; the GPU's tests are few files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from optional_packages import missing_package

from benchmarks.gpu_parts import GPU_TESTS

ROOT = Path(__file__).parents[1]

WITHOUT_EXTRAS = """
import sys
from importlib.machinery import PathFinder

import pytest

sys.path.insert(0, "tests/support")
from optional_packages import EXTRAS


class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in EXTRAS else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
sys.exit(pytest.main(["--collect-only", "-q", "-rs", "-p", "no:cacheprovider", "tests"]))
"""


@pytest.mark.slow
def test_without_any_extra_every_module_is_collected_or_skipped_with_its_reason():
    command = [sys.executable, "-c", WITHOUT_EXTRAS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", done.stdout, re.M)
    assert any("fastdiff-runtime[serve]" in reason for reason in reasons)
    assert [reason for reason in reasons if not reason.startswith("needs ")] == []
    assert "tests/engine/test_graph_executor.py::" in done.stdout  # what needs no extra is there


def test_only_the_absence_of_an_optional_package_is_a_reason_to_skip():
    absent = ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
    unavailable = RuntimeError("needs uvicorn")
    unavailable.__cause__ = absent
    assert missing_package(unavailable) == missing_package(absent) == "uvicorn"
    for broken in (
        ModuleNotFoundError("No module named 'fastdiff.nosuch'", name="fastdiff.nosuch"),
        ModuleNotFoundError("an old uvicorn", name="uvicorn.nosuch"),
        ImportError("cannot import name 'x' from 'uvicorn'", name="uvicorn"),
    ):
        assert missing_package(broken) is None


def test_gpu_tests_are_where_the_gpu_check_looks():
    marked = [
        path.relative_to(ROOT)
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(r"mark\.gpu\b|add_marker\(.gpu.\)", path.read_text())
    ]
    assert len(marked) > 3
    for path in marked:
        assert any(path.is_relative_to(folder) for folder in GPU_TESTS), path

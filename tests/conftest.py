"""Keep the tests away from the user's cache, and parallel workers from each other's cores.

``--bfloat16`` makes the suite believe that the processor is another one, since no test's outcome
may depend on it: one without instructions for bfloat16 (``absent``), with them (``present``), or
with such fast ones that whatever leaves the precision to measurement gets bfloat16 (``fastest``).
``FASTDIFF_CPU`` does the same for the instruction set of the kernels.

Where an optional package is missing, the modules that need it are skipped.
"""

import os
from collections import Counter

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


def pytest_terminal_summary(terminalreporter):
    """Say in a line for each reason how many tests it has skipped."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
    )
    if reasons:
        terminalreporter.section("skipped, by reason")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:5} {reason}")


def pytest_addoption(parser):
    parser.addoption(
        "--bfloat16",
        choices=["absent", "present", "fastest"],
        help="declare that this processor computes bfloat16 so, whatever it does",
    )


@pytest.fixture(autouse=True, scope="session")
def declared_bfloat16(pytestconfig):
    """Let the tuner see the processor that ``--bfloat16`` declares."""
    declared = pytestconfig.getoption("--bfloat16")
    if declared is None:
        yield
        return
    from fastdiff.compiling import measuring, tuning

    measure = measuring.Trial.measure

    def as_declared(trial):
        measure(trial)
        if trial.candidate.precision == "bfloat16":
            trial.candidate.seconds /= 1000

    def in_hardware(precision, device):
        return precision == "float32" or (precision == "bfloat16" and declared != "absent")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "in_hardware", in_hardware)
        if declared == "fastest":
            patch.setattr(measuring.Trial, "measure", as_declared)
        yield

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from fastdiff import _native, kernels
from fastdiff.errors import Unavailable, UnknownName
from fastdiff.kernels import cpu
from fastdiff.kernels.noise import normal
from fastdiff.kernels.step import reference
from fastdiff.records import BATCH_ROW, TABLE_ROW


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_portable_is_always_usable_and_the_best_is_chosen() -> None:
    levels = kernels.cpu_levels()
    assert levels["portable"] is None
    usable = [name for name, reason in levels.items() if reason is None]
    got = run("from fastdiff import kernels; print(kernels.active_level())", FASTDIFF_CPU="")
    assert got.stdout.strip() == usable[-1], got.stderr


def test_use_level_returns_to_the_level_before(level: str) -> None:
    before = kernels.active_level()
    with kernels.use_level("portable"):
        assert kernels.active_level() == "portable"
    assert kernels.active_level() == before == level


def test_unknown_level_raises() -> None:
    with pytest.raises(UnknownName, match=r"known: .*portable"), kernels.use_level("mmx"):
        pass


def test_unusable_level_raises_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "network_levels", lambda: {"avx512": "this CPU lacks AVX-512 F"})
    with pytest.raises(Unavailable, match="lacks AVX-512 F"), kernels.use_level("avx512"):
        pass


def test_environment_forces_a_level() -> None:
    code = "from fastdiff import kernels; print(kernels.active_level())"
    assert run(code, FASTDIFF_CPU="portable").stdout.strip() == "portable"
    refused = run(code, FASTDIFF_CPU="sse9")
    assert refused.returncode != 0
    assert "unknown FASTDIFF_CPU level 'sse9'; known: " in refused.stderr


def test_fingerprint_is_that_of_the_reference() -> None:
    """The constant that the import checks is not taken from a compiler's output."""
    n = 100
    inputs = [normal(1, draw=draw, count=n) for draw in range(4)]
    table, rows = np.zeros(1, TABLE_ROW), np.zeros(1, BATCH_ROW)
    table["x"] = [0.99731, 0.333, 0, 0, 0, -0.0345, 0.0712, 0.0517]
    table["h"] = [0.7123, 0, 0, 0, 0, 0.2911, 0, -0.1207]
    for name, value in (("p", 1.0317), ("q", -0.2531), ("clip", 1.5), ("w", 0.4391), ("dst", 1)):
        table[name] = value
    rows["seed"], rows["uncond"] = 1, -1
    state, history = inputs[0][None], inputs[3][None, None]
    denoised = np.empty((1, n), np.float32)
    output = np.concatenate(inputs[1:3])[None]
    reference.step(
        table=table,
        rows=rows,
        state=state,
        output=output,
        history=history,
        denoised=denoised,
        dtype=np.float32,
    )
    digest = 0xCBF29CE484222325
    for word in np.concatenate([state[0], history[0, 0], denoised[0]]).view(np.uint32).tolist():
        digest = (digest ^ word) * 0x100000001B3 % 2**64
    assert digest == cpu.FINGERPRINT
    for name, reason in _native.levels().items():
        if reason is None:
            assert _native.fingerprint(name) == digest


def test_wrong_rounding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "fingerprint", lambda name: cpu.FINGERPRINT ^ (name == "portable"))
    with pytest.raises(Unavailable, match=r"portable kernels round wrongly.*-ffp-contract=off"):
        cpu.check_arithmetic()

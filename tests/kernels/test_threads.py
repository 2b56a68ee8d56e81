from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fastdiff import _native
from fastdiff.kernels.noise import normal, reference

from .batches import assert_same_bits, random_batch, run_native, run_reference


def test_concurrent_callers_do_not_disturb_each_other(threads: int) -> None:
    batches = [random_batch(seed, rows=3, n=30_011) for seed in range(4)]
    wanted = [run_reference(batch, np.float32) for batch in batches]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(5):
            for got, want in zip(callers.map(run_native, batches), wanted, strict=True):
                assert_same_bits(got, want)


def test_number_of_threads_may_change_between_calls() -> None:
    want = reference.normal(5, 0, 0, 0, 0, 200_003)
    before = torch.get_num_threads()
    try:
        for count in (1, 4, 2, 300, 1):
            torch.set_num_threads(count)
            got = normal(5, count=200_003)
            assert (got.view(np.uint32) == want.view(np.uint32)).all(), count
    finally:
        torch.set_num_threads(before)


def test_threads_must_be_positive() -> None:
    out, one = np.empty((1, 4), np.float32), np.zeros(1, np.uint64)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        _native.fill_normal(out, one, one, 0, 0, 0, 1.0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_kernels_work_after_fork(threads: int) -> None:
    """The child has none of its parent's workers; it makes its own."""
    want = normal(5, count=200_003)  # the parent's pool is running
    out, one = np.empty((1, 200_003), np.float32), np.zeros(1, np.uint64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of fork beside threads
        child = os.fork()
    if child == 0:
        _native.fill_normal(out, one + np.uint64(5), one, 0, 0, 0, 1.0, threads)
        os._exit(0 if out.tobytes() == want.tobytes() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

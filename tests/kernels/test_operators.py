"""The torch operators: the kernels' bits, padding, and what the dispatcher is told of them."""

import numpy as np
import pytest
import torch

from fastdiff.kernels import operators  # noqa: F401  registers torch.ops.fastdiff
from fastdiff.kernels.noise import normal
from fastdiff.kernels.step import reference
from fastdiff.records import BATCH_ROW, TABLE_ROW

SLOTS, EVALUATIONS, N = 5, 7, 13
fastdiff = torch.ops.fastdiff


def as_bytes(records):
    return torch.from_numpy(records.view(np.uint8).reshape(len(records), -1))


def random_arguments(seed=0):
    """Five rows, the second and the last of them padding with indices that would be wrong."""
    rng = np.random.default_rng(seed)
    table = np.zeros(3, TABLE_ROW)
    table["x"], table["h"] = rng.normal(0, 1, (2, 3, 8))
    table["p"], table["q"], table["c_in_next"], table["t"] = rng.normal(0, 1, (4, 3))
    table["clip"], table["dst"] = [0.7, np.inf, 1.0], [0, 2, 1]
    rows = np.zeros(5, BATCH_ROW)
    rows["seed"] = rng.integers(0, 2**64, 5, np.uint64)
    rows["table_row"] = [2, 99, 0, 1, -7]
    rows["slot"] = [3, -1, 0, 4, -1]
    rows["draw"] = rng.integers(0, 2**32, 5)
    rows["guidance"] = [2.5, 1, 1, 0.5, 1]
    rows["cond"], rows["uncond"] = [4, 99, 0, 1, 99], [2, 99, -1, 6, 99]
    return {
        "table": as_bytes(table),
        "rows": as_bytes(rows),
        "state": torch.from_numpy(rng.standard_normal((SLOTS, N), np.float32)),
        "output": torch.from_numpy(rng.standard_normal((EVALUATIONS, N), np.float32)),
        "flags": torch.full((5,), 7, dtype=torch.uint8),
        "history": torch.from_numpy(rng.standard_normal((4, SLOTS, N), np.float32)),
        "next_input": torch.full((SLOTS, N), torch.nan),
        "denoised": torch.full((SLOTS, N), torch.nan),
    }, (table, rows)


def test_step_has_the_bits_of_the_reference_and_skips_padding():
    got, (table, rows) = random_arguments()
    got["output"][6, 3] = torch.inf  # the unconditional branch of the fourth row
    want = {k: v.numpy().copy() for k, v in got.items() if k not in ("table", "rows", "flags")}
    with np.errstate(invalid="ignore"):
        flags = reference.step(table=table, rows=rows[[0, 2, 3]], **want, dtype=np.float32)
    fastdiff.step(**got)
    assert got["flags"].tolist() == [0, 7, 0, 1, 7]
    assert (flags != 0).tolist() == [False, False, True]
    for name, array in want.items():
        np.testing.assert_array_equal(got[name].numpy(), array, strict=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gather_puts_each_row_where_its_branches_are_evaluated(dtype):
    arguments, (table, _) = random_arguments()
    inputs = torch.arange(SLOTS * N).view(SLOTS, N).to(dtype)
    x = torch.full((EVALUATIONS, N), torch.nan, dtype=dtype)
    t = torch.full((EVALUATIONS,), torch.nan)
    fastdiff.gather(arguments["table"], arguments["rows"], inputs, x, t)
    slot_of = {4: 3, 2: 3, 0: 0, 1: 4, 6: 4}
    table_row_of = {4: 2, 2: 2, 0: 0, 1: 1, 6: 1}
    for evaluation in range(EVALUATIONS):
        if evaluation in slot_of:
            assert torch.equal(x[evaluation], inputs[slot_of[evaluation]])
            assert t[evaluation] == float(table["t"][table_row_of[evaluation]])
        else:
            assert x[evaluation].isnan().all()
            assert t[evaluation].isnan()


def test_fill_normal_takes_the_bits_of_unsigned_numbers():
    seeds = torch.tensor([-1, 5])  # 2^64 - 1 and 5
    out = torch.full((2, N), torch.nan)
    fastdiff.fill_normal(out, seeds, torch.tensor([3, 2**47]), 9, 1, 0.5, 2)
    for row, (seed, image) in zip(out, [(2**64 - 1, 3), (5, 2**47)], strict=True):
        expected = np.float32(0.5) * normal(seed, image, 9, 1, 2, count=N)
        np.testing.assert_array_equal(row.numpy(), expected)


@pytest.mark.parametrize("operator", ["step", "gather", "fill_normal"])
def test_the_dispatcher_is_told_what_is_written(operator):
    """Schema and fake kernel against what the kernel does: what export and compile rely on."""
    step, _ = random_arguments()
    arguments = {
        "step": tuple(step.values()),
        "gather": (
            step["table"], step["rows"], step["state"],
            torch.zeros(EVALUATIONS, N), torch.zeros(EVALUATIONS),
        ),
        "fill_normal": (torch.zeros(2, N), torch.tensor([1, 2]), torch.tensor([3, 4]), 5, 1),
    }  # fmt: skip
    torch.library.opcheck(
        getattr(fastdiff, operator).default,
        arguments[operator],
        test_utils=("test_schema", "test_faketensor"),
    )

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from fastdiff.errors import InvalidArgument, InvalidDtype, InvalidShape
from fastdiff.kernels.step import step
from fastdiff.records import BATCH_ROW, TABLE_ROW

S, E, N, K = 4, 3, 10, 2


def arguments() -> dict[str, Any]:
    table, rows = np.zeros(2, TABLE_ROW), np.zeros(2, BATCH_ROW)
    table["x"][:, 0] = 1
    rows["slot"], rows["uncond"] = [0, 1], -1
    return {
        "table": table,
        "rows": rows,
        "state": torch.ones(S, N),
        "output": torch.ones(E, 2 * N),
        "history": torch.ones(K, S, N),
        "next_input": torch.ones(S, N, dtype=torch.bfloat16),
        "denoised": torch.ones(S, N),
    }


def assert_refused(error: type[Exception], match: str, keywords: dict[str, Any]) -> None:
    """The call raises, and writes nothing."""
    written = {
        name: keywords[name].clone()
        for name in ("state", "history", "next_input", "denoised")
        if isinstance(keywords[name], torch.Tensor) and keywords[name].device.type == "cpu"
    }
    with pytest.raises(error, match=match):
        step(**keywords)
    for name, before in written.items():
        assert torch.equal(keywords[name], before), name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("table_row", -1),
        ("table_row", 2),
        ("slot", -1),
        ("slot", S),
        ("slot", 2**31 - 1),
        ("cond", -1),
        ("cond", E),
        ("uncond", -2),
        ("uncond", E),
        ("image", 2**48),
    ],
)
def test_record_out_of_range_raises(field: str, value: int) -> None:
    keywords = arguments()
    keywords["rows"][field][1] = value
    assert_refused(InvalidArgument, rf"rows\[1\]: {field}.*{value}|2\^48", keywords)


@pytest.mark.parametrize("value", [-1, 5, 2**31 - 1])
def test_written_slot_out_of_range_raises(value: int) -> None:
    keywords = arguments()
    keywords["table"]["dst"] = value
    assert_refused(InvalidArgument, rf"dst .* got {value}", keywords)


@pytest.mark.parametrize("column", [3, 4])
def test_history_that_is_missing_raises(column: int) -> None:
    for name in ("x", "h"):
        keywords = arguments()
        keywords["table"][name][:, column] = 1
        assert_refused(InvalidArgument, f"slot {column}, but history holds 2", keywords)
    keywords = arguments()
    keywords["table"]["dst"] = column
    assert_refused(InvalidArgument, f"slot {column}, but history holds 2", keywords)
    keywords["history"] = None
    assert_refused(InvalidArgument, "history holds 0", keywords)


def test_one_slot_twice_raises() -> None:
    keywords = arguments()
    keywords["rows"]["slot"] = 2
    assert_refused(InvalidArgument, "slot 2 is already used", keywords)


def test_learned_scale_without_values_raises() -> None:
    keywords = arguments()
    keywords["table"]["x"][:, 7], keywords["table"]["w"] = 1, 0.5
    keywords["output"] = torch.ones(E, 2 * N - 1)
    assert_refused(InvalidShape, "at least 20 elements, got 19", keywords)


@pytest.mark.parametrize(
    ("name", "array", "error", "match"),
    [
        ("state", torch.ones(S, N, dtype=torch.float64), InvalidDtype, "state: expected float32"),
        ("state", torch.ones(S * N), InvalidShape, r"state: expected shape \(S, n\), got \(40\)"),
        ("state", torch.ones(N, S).t(), InvalidArgument, "state: expected a C-contiguous"),
        ("state", torch.ones(S, N, device="meta"), InvalidArgument, "CPU memory"),
        ("state", "x", InvalidArgument, "str"),
        ("output", torch.ones(E, N - 1), InvalidShape, "at least n = 10 elements, got 9"),
        ("output", torch.ones(E, N, dtype=torch.int16), InvalidDtype, "float16, got DLPack type 0"),
        ("history", torch.ones(K, S, N + 1), InvalidShape, r"\(K, 4, 10\), got \(2, 4, 11\)"),
        ("next_input", torch.ones(S, N - 1), InvalidShape, r"next_input: expected .*\(4, 10\)"),
        ("denoised", torch.ones(S - 1, N), InvalidShape, r"denoised: expected .*\(4, 10\)"),
        ("denoised", np.ones((S, N)), InvalidDtype, "denoised: expected float32"),
        ("table", np.zeros((2, 1), TABLE_ROW), InvalidShape, r"table: .*\(R\), got \(2, 1\)"),
        ("table", np.zeros(2, BATCH_ROW), InvalidDtype, "table: expected records"),
        ("table", [1], InvalidDtype, "got list"),
        ("rows", np.zeros(2, TABLE_ROW), InvalidDtype, "rows: expected records"),
        ("rows", np.zeros(4, BATCH_ROW)[::2], InvalidArgument, "rows: expected a C-contiguous"),
    ],
)
def test_array_that_does_not_fit_raises(
    name: str, array: Any, error: type[Exception], match: str
) -> None:
    keywords = arguments()
    keywords[name] = array
    assert_refused(error, match, keywords)


def test_read_only_state_raises() -> None:
    keywords = arguments()
    keywords["state"] = np.ones((S, N), np.float32)
    keywords["state"].flags.writeable = False
    assert_refused(InvalidArgument, "state: is written in place", keywords)


def test_arrays_that_share_memory_raise() -> None:
    keywords = arguments()
    keywords["denoised"] = keywords["state"]
    assert_refused(InvalidArgument, "state and denoised share memory", keywords)
    keywords = arguments()
    whole = torch.ones(S * N + E * N)
    keywords["state"], keywords["output"] = whole[: S * N].view(S, N), whole[S * N - N :][: E * N]
    keywords["output"] = keywords["output"].view(E, N)
    assert_refused(InvalidArgument, "state and output share memory", keywords)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["accepted", "refused"])
def test_memory_is_given_back(dtype: type[np.floating[Any]]) -> None:
    """Capsules are consumed and released, whether the call succeeds or raises."""
    keywords = arguments()
    memory = np.ones((S, N), dtype)
    alive = weakref.ref(memory)
    keywords["state"] = torch.from_numpy(memory)
    if dtype is np.float32:
        step(**keywords)
    else:
        with pytest.raises(InvalidDtype):
            step(**keywords)
    del memory, keywords
    gc.collect()
    assert alive() is None

"""The choice between implementations, with a device and a stopwatch that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from emulated_cuda import emulated_cuda

from fastdiff.errors import KernelWarning
from fastdiff.kernels import cuda_module, gpu_kernels
from fastdiff.kernels.attention import (
    MAX_HEAD_SIZE,
    AttentionChoice,
    ShapeClass,
    choices,
    choose,
    choosing,
    dispatch,
)

from .cases import Shape, assert_as_accurate_as_torch, random_inputs

HALF = torch.float16
SHAPE = Shape(2, 3, 100, 77, 40)


@pytest.fixture(autouse=True)
def no_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.delenv("FASTDIFF_GPU", raising=False)


@pytest.fixture
def all_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU where both languages' kernels were found right."""
    monkeypatch.setattr(gpu_kernels, "_first_use", lambda operator, language, device: None)
    monkeypatch.setattr(dispatch, "run", lambda implementation, *call: None)


class Stopwatch:
    """Returns given seconds, and keeps whose they were asked for."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.asked: list[list[str]] = []

    def __call__(self, runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        self.asked.append(list(runs))
        return {name: self.seconds[name] for name in runs}


def inputs(shape: Shape = SHAPE, dtype: torch.dtype = HALF) -> Any:
    return random_inputs(shape, dtype)


def test_the_fastest_is_chosen_and_says_why(all_usable: None) -> None:
    choice = choose(*inputs(), measure=Stopwatch(torch=2e-3, triton=1e-3, cuda=1.5e-3))
    assert choice.implementation == "triton"
    expected = "triton, the fastest (torch: 2.00 times as long; cuda: 1.50 times as long)"
    assert choice.reason == expected
    assert list(choices().values()) == [choice]


def test_what_cannot_run_is_not_measured(all_usable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"triton": None, "cuda": "no CUDA kernels"}
    monkeypatch.setattr(gpu_kernels, "_first_use", lambda op, language, device: reasons[language])
    stopwatch = Stopwatch(torch=1e-3, triton=2e-3)
    choice = choose(*inputs(), measure=stopwatch)
    assert stopwatch.asked == [["torch", "triton"]]
    assert choice.reason == "torch, the fastest (cuda: no CUDA kernels; triton: 2.00 times as long)"


def test_a_kernel_that_raises_for_these_shapes_is_refused_with_its_reason(
    all_usable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OutOfResources(Exception):  # as Triton's
        pass

    def run(implementation: str, *call: object) -> None:
        if implementation == "triton":
            raise OutOfResources("shared memory, Required: 131072")

    monkeypatch.setattr(dispatch, "run", run)
    reason = "OutOfResources: shared memory, Required: 131072"
    with pytest.warns(KernelWarning, match=f"triton is not used for these shapes: {reason}"):
        choice = choose(*inputs(), measure=Stopwatch(torch=2.0, cuda=1.0))
    assert choice == AttentionChoice("cuda", {"torch": 2.0, "cuda": 1.0}, {"triton": reason})


def test_an_only_candidate_is_not_measured() -> None:
    stopwatch = Stopwatch()
    choice = choose(*inputs(dtype=torch.float32), measure=stopwatch)
    assert stopwatch.asked == []
    refused = "takes float16 and bfloat16, not torch.float32"
    assert choice.reason == (
        f"torch, the only one that can run (triton: {refused}; cuda: {refused})"
    )


def test_a_class_is_measured_once(all_usable: None) -> None:
    stopwatch = Stopwatch(torch=3.0, triton=2.0, cuda=1.0)
    with choosing(stopwatch):
        for queries, keys in ((100, 77), (128, 65), (65, 128)):  # one class
            assert dispatch.selected(*inputs(Shape(2, 3, queries, keys, 40)), 1.0) == "cuda"
        assert len(stopwatch.asked) == 1
        assert dispatch.selected(*inputs(Shape(2, 3, 129, 77, 40)), 1.0) == "cuda"
    assert len(stopwatch.asked) == 2
    assert dispatch.selected(*inputs(), 1.0) == "cuda"
    assert dispatch.selected(*inputs(Shape(2, 3, 300, 77, 40)), 1.0) == "torch"
    assert len(stopwatch.asked) == len(choices()) == 2


def test_a_class_knows_what_matters() -> None:
    q, k, v = inputs()
    found = ShapeClass.of(q, k, v)
    assert found == ShapeClass("cpu", "torch.float16", 40, 8, 128, 128, "aligned")
    assert ShapeClass.of(q, k, random_inputs(Shape(2, 3, 77, 77, 40), HALF).q) == found
    shifted = torch.zeros(2 * 3 * 77 * 40 + 1, dtype=HALF)[1:].view(2, 3, 77, 40)
    assert ShapeClass.of(q, k, shifted).rows == "contiguous"
    assert ShapeClass.of(q, k, v.transpose(2, 3).contiguous().transpose(2, 3)).rows == "strided"


@pytest.mark.parametrize(
    ("shape", "change", "scale", "reason"),
    [
        (Shape(1, 2, 3, 4, 20), None, 1.0, "multiples of 8 up to 160, not 20"),
        (Shape(1, 2, 3, 4, MAX_HEAD_SIZE + 8), None, 1.0, "up to 160, not 168"),
        (Shape(1, 2, 3, 0, 8), None, 1.0, "nothing to attend to"),
        (Shape(1, 2, 0, 4, 8), None, 1.0, "nothing to attend to"),
        (Shape(1, 2, 3, 4, 8), None, 0.0, "a positive scale, not 0.0"),
        (Shape(65536, 1, 1, 1, 8), None, 1.0, "up to 65535 batches and heads"),
        (Shape(1, 2, 3, 4, 16), lambda t: t[..., ::2], 1.0, "contiguous rows"),
    ],
)
def test_each_refusal_has_its_reason(
    all_usable: None, shape: Shape, change: Any, scale: float, reason: str
) -> None:
    tensors = [change(t) if change else t for t in inputs(shape)]
    for language in ("triton", "cuda"):
        assert reason in (dispatch.refusal(language, *tensors, scale) or "")
    assert dispatch.refusal("torch", *tensors, scale) is None


def test_only_cuda_needs_aligned_rows(all_usable: None) -> None:
    q, k, _ = inputs(Shape(1, 2, 3, 4, 8))
    shifted = torch.zeros(2 * 4 * 8 + 1, dtype=HALF)[1:].view(1, 2, 4, 8)
    assert dispatch.refusal("triton", q, k, shifted, 1.0) is None
    assert "multiples of 16 bytes" in (dispatch.refusal("cuda", q, k, shifted, 1.0) or "")


def test_the_environment_allows_one_language(
    all_usable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDIFF_GPU", "triton")
    assert dispatch.refusal("cuda", *inputs(), 1.0) == "FASTDIFF_GPU=triton"
    assert dispatch.refusal("triton", *inputs(), 1.0) is None


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_scale_that_kernels_cannot_take_goes_to_torch(all_usable: None, scale: float) -> None:
    with choosing(Stopwatch(torch=3.0, triton=2.0, cuda=1.0)):
        assert dispatch.selected(*inputs(), 1.0) == "cuda"
        assert dispatch.selected(*inputs(), scale) == "torch"


@pytest.fixture
def emulated(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    gpu_kernels._first_use.cache_clear()
    with emulated_cuda():
        yield
    gpu_kernels._first_use.cache_clear()


@pytest.mark.usefixtures("emulated")
def test_a_kernel_is_chosen_once_it_was_found_right() -> None:
    """The whole way on the emulated device: first use, choice, launch, layout of the result."""
    assert cuda_module.status() is None
    tensors = inputs()
    choice = choose(*tensors, measure=Stopwatch(torch=2.0, cuda=1.0))
    assert choice == AttentionChoice("cuda", {"torch": 2.0, "cuda": 1.0}, choice.refused)
    assert choice.refused["triton"].startswith(f"torch {torch.__version__} finds no GPU")
    out = dispatch.run("cuda", *tensors, 0.2)
    assert_as_accurate_as_torch(out, tensors, 0.2)
    assert out.transpose(1, 2).is_contiguous()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_measures_every_usable_implementation() -> None:
    tensors = random_inputs(Shape(2, 8, 256, 256, 64), HALF, device="cuda")
    choice = choose(*tensors)
    assert set(choice.seconds) == set(dispatch.IMPLEMENTATIONS) - set(choice.refused)
    assert all(seconds > 0 for seconds in choice.seconds.values())
    assert choice.implementation == min(choice.seconds, key=choice.seconds.__getitem__)

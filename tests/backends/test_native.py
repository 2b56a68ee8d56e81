"""fastdiff's own CPU backend: what it computes, keeps, refuses, and shares a process with."""

import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

import fastdiff
from fastdiff import kernels
from fastdiff.backends import BACKENDS, native
from fastdiff.compiling import tuning
from fastdiff.errors import ArtifactError, Unavailable
from fastdiff.integrations.describing import describe
from fastdiff.native import Algorithm
from fastdiff.native.nodes import Attention
from fastdiff.storing import recalling as loading

BACKEND = BACKENDS["native"]
MANY = 9


@pytest.fixture(scope="module")
def digits():
    """The digits network, its denoiser, inputs for many rows and torch's answer."""
    network, _ = describe("digits")
    x, t, conditioning = network.example(MANY, seed=3)
    t = t + 0.25
    with torch.no_grad():
        expected = network.module(x, t, **conditioning)
    return network, BACKEND.build(network, "float32"), (x, t, conditioning), expected


@pytest.fixture
def threads():
    """Set the number of threads; the one before comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def rows_of(inputs, rows):
    """Return the inputs of some rows, contiguous."""
    x, t, conditioning = inputs
    return x[rows], t[rows], {name: value[rows] for name, value in conditioning.items()}


def error(got, expected):
    """Largest error of an element, as a part of the largest element."""
    return float((got - expected).abs().max() / expected.abs().max())


def test_digits_are_those_of_torch_and_a_row_has_the_same_bits_in_any_batch(digits, run, threads):
    _, denoiser, inputs, expected = digits
    whole = run(denoiser, *inputs)
    assert error(whole, expected) < 1e-5
    for batch in range(1, MANY + 1):
        threads(1 + batch % 3)
        rows = torch.arange(MANY).roll(batch)[:batch]
        assert torch.equal(run(denoiser, *rows_of(inputs, rows)), whole[rows])


def test_a_row_that_is_not_finite_leaves_the_others_alone(digits, run):
    _, denoiser, (x, t, conditioning), _ = digits
    alone = run(denoiser, x, t, conditioning)
    x = x.clone()
    x[4] = torch.nan
    got = run(denoiser, x, t, conditioning)
    others = [row for row in range(MANY) if row != 4]
    assert torch.equal(got[others], alone[others])
    assert got[4].isnan().all()


def test_a_bound_call_outlives_the_memory_that_later_calls_replace(digits, run):
    _, denoiser, inputs, _ = digits
    expected = run(denoiser, *inputs)
    out = torch.full_like(expected, torch.nan)
    call = denoiser.bind(*inputs, out)
    denoiser.trim([1])
    run(denoiser, *rows_of(inputs, torch.arange(MANY).repeat(3)))
    call()
    assert torch.equal(out, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_plans_run_in_a_forked_child(digits, run, threads):
    _, denoiser, inputs, _ = digits
    threads(2)
    expected = run(denoiser, *inputs)  # the parent's threads have started
    out = torch.full_like(expected, torch.nan)
    call = denoiser.bind(*inputs, out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of fork beside threads
        child = os.fork()
    if child == 0:
        call()
        os._exit(0 if out.numpy().tobytes() == expected.numpy().tobytes() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def kept(digits, tmp_path):
    """A folder that the digits denoiser was saved to."""
    _, denoiser, _, _ = digits
    denoiser.save(tmp_path, [1, 4])
    return tmp_path


def test_what_was_kept_is_neither_planned_nor_measured_again(digits, kept, run, monkeypatch):
    network, denoiser, inputs, _ = digits
    monkeypatch.setattr(native, "plan_network", lambda network: pytest.fail("planned again"))
    again = BACKEND.build(network, "float32", kept)
    assert again.packed.plan == denoiser.packed.plan
    assert again.packed.choices == denoiser.packed.choices
    for batch in (1, MANY):
        part = rows_of(inputs, slice(batch))
        assert torch.equal(run(again, *part), run(denoiser, *part))


def test_what_kernels_read_begins_at_a_cache_line(digits, kept):
    network, denoiser, *_ = digits
    for made in (denoiser, BACKEND.build(network, "float32", kept)):
        assert all(array.ctypes.data % 64 == 0 for array in made.packed.weights.values())


def test_denoisers_in_threads_of_one_process_do_not_disturb_each_other(digits, kept, threads):
    network, denoiser, (x, t, conditioning), expected = digits
    threads(2)
    calls, outputs, alone = [], [], []
    for scale, one in enumerate([denoiser, BACKEND.build(network, "float32", kept)], start=1):
        outputs.append(torch.full_like(expected, torch.nan))
        calls.append(one.bind(x / scale, t, conditioning, outputs[-1]))
        calls[-1]()
        alone.append(outputs[-1].clone())
    assert not torch.equal(*alone)
    with ThreadPoolExecutor(2) as callers:
        for _ in range(100):
            for output in outputs:
                output.fill_(torch.nan)
            list(callers.map(lambda call: call(), calls))
            assert all(map(torch.equal, outputs, alone))


def test_what_was_kept_for_other_kernels_is_made_again(digits, kept, run, monkeypatch):
    network, _, inputs, expected = digits
    monkeypatch.setattr(native, "choose", lambda *args: {})
    change(kept, lambda plan: plan.update(level="neon"))
    with kernels.use_level("portable"):
        again = BACKEND.build(network, "float32", kept)
    assert again.packed.level == "portable"
    assert error(run(again, *inputs), expected) < 1e-5


def change(folder, edit):
    path = folder / "native.json"
    described = json.loads(path.read_text())
    edit(described)
    path.write_text(json.dumps(described))


def in_node(**fields):
    return lambda described: described["plan"]["nodes"][-1]["y"].update(fields)


def in_buffer(name, *values):
    return lambda described: described["plan"]["buffers"].update({name: values})


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (in_node(offset=1 << 20), "leaves its 64 elements"),
        (in_node(offset=-1), "is no view"),
        (
            lambda described: described.update(choices={"conv_in": {}}),
            "not what this backend writes",
        ),
        (lambda described: described.pop("plan"), "not what this backend writes"),
    ],
)
def test_a_plan_that_was_changed_is_refused(digits, kept, edit, reason):
    change(kept, edit)
    with pytest.raises(ArtifactError, match=reason):
        BACKEND.build(digits[0], "float32", kept)


def test_weights_that_are_cut_or_gone_are_refused(digits, kept):
    network, *_ = digits
    path = kept / "native.safetensors"
    weights = load_file(path)
    name = max(weights, key=lambda name: weights[name].size)
    save_file({**weights, name: weights[name].reshape(-1)[:-8]}, path)
    with pytest.raises(
        ArtifactError, match=rf"{name}: expected \d+ of float32, got \d+ of float32"
    ):
        BACKEND.build(network, "float32", kept)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="not what this backend writes"):
        BACKEND.build(network, "float32", kept)
    path.unlink()
    with pytest.raises(ArtifactError, match="not what this backend writes"):
        BACKEND.build(network, "float32", kept)


def tiles_everywhere(plan, *args):
    """Choose tiles for all convolutions of 16 or more channels, and for attention."""
    inner = [node for node in plan.convolutions if node.x.shape[-1] >= 16]
    attentions = [node for node in plan.nodes if isinstance(node, Attention)]
    return {node.name: Algorithm("tiles") for node in (*inner, *attentions)}


def test_attention_in_tiles_is_kept_and_shown(digits, tmp_path, run, monkeypatch):
    network, _, inputs, expected = digits
    monkeypatch.setattr(native, "_require_instructions", lambda precision: None)
    monkeypatch.setattr(native, "choose", tiles_everywhere)
    denoiser = BACKEND.build(network, "bfloat16")
    denoiser.save(tmp_path, [1])
    again = BACKEND.build(network, "bfloat16", tmp_path)
    assert again.packed.choices == denoiser.packed.choices
    got = run(again, *inputs)
    assert torch.equal(got, run(denoiser, *inputs))
    assert 1e-4 < error(got, expected) < 2e-2
    algorithms = {name: choice.algorithm for name, choice in again.packed.choices.items()}
    assert "\nAttention tiles " in again.packed.plan.describe(algorithms=algorithms)


def test_bfloat16_is_refused_where_no_instruction_multiplies_it(digits):
    reason = r"only on CPUs with AMX or AVX-512 BF16, and this one has portable; use precision='fl"
    with kernels.use_level("portable"), pytest.raises(Unavailable, match=reason):
        BACKEND.build(digits[0], "bfloat16")


def test_the_environment_forces_a_level():
    code = "from fastdiff.backends import BACKENDS; print(BACKENDS['native'].status().detail)"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "FASTDIFF_CPU": "portable"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "portable kernels, CPU"


class Labelled(nn.Module):
    """Two convolutions around an activation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.label = nn.Embedding(5, 8)

    def forward(self, x, t, class_labels):
        shift = self.label(class_labels) * torch.cos(t / 300)[:, None]
        return self.second(nn.functional.silu(self.first(x) + shift[:, :, None, None]))


COMPILE = {"sample_shape": (3, 6, 5), "precision": "float32", "tune": 0.01, "cache": False}
OPTIONS = {"class_labels": [0, 3, 2], "seed": [5, 6, 7], "steps": 3, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def sampler():
    return fastdiff.compile(Labelled(), backend="native", num_classes=4, null_class=4, **COMPILE)


@pytest.fixture(scope="module")
def saved(sampler, tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "labelled.fastdiff"
    sampler.save(path)
    return path


def test_a_loaded_sampler_gives_the_same_bits_and_makes_nothing_again(sampler, saved, monkeypatch):
    monkeypatch.setattr(loading, "tune", lambda *args: pytest.fail("measured again"))
    monkeypatch.setattr(native, "plan_network", lambda network: pytest.fail("planned again"))
    loaded = fastdiff.load(saved, verify=True)
    assert loaded.report.chosen.backend == "native"
    assert torch.equal(loaded.sample(**OPTIONS), sampler.sample(**OPTIONS))


def test_rows_need_no_fixed_calls_to_have_the_same_bits_in_company(sampler, saved):
    loaded = fastdiff.load(saved, batch_invariant=True)
    together = loaded.sample(**OPTIONS)
    assert loaded.engine.executor.batch_seconds == sampler.engine.executor.batch_seconds
    assert loaded.engine.executor._fixed is None
    for row in range(3):
        own = {name: [OPTIONS[name][row]] for name in ("class_labels", "seed")}
        assert torch.equal(loaded.sample(**{**OPTIONS, **own}), together[row : row + 1])


class Summing(nn.Module):
    """A convolution, and an operator that few networks have."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, t):
        return self.conv(x.cumsum(3) / 8)


def test_an_operator_without_a_kernel_is_named_and_another_engine_chosen(monkeypatch):
    reason = "the native backend cannot read aten.cumsum.default in the network"
    with pytest.raises(
        Unavailable, match=f"{reason}: it has no kernel; another backend can run it"
    ):
        fastdiff.compile(Summing(), backend="native", **COMPILE)
    monkeypatch.setattr(tuning, "BACKENDS", {name: BACKENDS[name] for name in ("eager", "native")})
    report = fastdiff.compile(Summing(), **COMPILE).report
    assert report.chosen.backend == "eager"
    (refused,) = (c.refusal for c in report.candidates if c.backend == "native")
    assert refused.startswith(reason)

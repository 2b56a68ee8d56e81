"""Networks whose rows couple give every row what they give it alone, on every engine."""

from dataclasses import replace

import pytest
import torch
from coupled_networks import MODULES, SAMPLE_SHAPE, coupled_network
from networks import Mixer
from torch import nn

import fastdiff
from fastdiff import errors
from fastdiff.backends import BACKENDS, build_denoiser, reference_denoiser
from fastdiff.backends.fixed_batch import FixedBatch
from fastdiff.compiling import CompileOptions
from fastdiff.compiling.company import Company, Effect
from fastdiff.compiling.tuning import tune
from fastdiff.engine.engine import Engine
from fastdiff.exporting import export_onnx
from fastdiff.networks import Conditioning, Network
from fastdiff.sampler.sampler import Sampler
from fastdiff.sampling import Schedule

NAMES = [*MODULES, "dynamic int8", "dynamic int8 by threes"]


def effect(network, precision="float32", rows=None):
    denoiser = build_denoiser("eager", network, precision)
    return Company.of(network, Schedule()).effect(denoiser, rows)


def images(engine, requests):
    """Sample requests that join one after the other, so that their rows are at different times."""
    tickets = []
    for request in requests:
        tickets.append(engine.submit(request))
        engine.tick()
    while not all(ticket.done for ticket in tickets):
        engine.tick()
    return [ticket.result() for ticket in tickets]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Make the networks once, with the files that engines read."""
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp("coupled")
        network = coupled_network(name, folder)
        made[name] = replace(network, onnx=export_onnx(network, folder / "exported.onnx"))
    return made


# Inductor calls a C++ compiler for each network, so it has one.
RUNNING = [(name, e) for name in NAMES for e in ("onnxruntime", "openvino")]
RUNNING += [(name, "eager") for name in MODULES] + [("the first row's time", "inductor")]


@pytest.mark.parametrize(("name", "backend"), RUNNING)
def test_rows_that_couple_are_right_alone_in_company_and_after_others(name, backend, networks):
    if not BACKENDS[backend].status().usable:
        pytest.skip(BACKENDS[backend].status().detail)
    network, choices = networks[name], CompileOptions(backend, "float32", tune=0.01)
    sampler = Sampler(tune(network, Schedule(), choices, lambda stage: None))
    assert [c.coupled for c in sampler.report.candidates] == [True]
    assert f"rows couple in {backend} float32: evaluated one by one" in str(sampler.report)
    assert list(sampler.engine.executor.batch_seconds) == [1]

    quiet = torch.randn(2, *SAMPLE_SHAPE, generator=torch.Generator().manual_seed(1))
    requests = [
        sampler.request(latents=quiet, steps=5, seed=1),
        sampler.request(latents=100 * quiet.flip(0), steps=3, seed=2),
        sampler.request(latents=0.01 * quiet[:1], steps=4, seed=3),
    ]
    plain = Engine(network, reference_denoiser(network), {1: 1.0})
    expected = [images(plain, [request])[0] for request in requests]
    together = images(sampler.engine, requests)
    afterwards = images(sampler.engine, requests[:1])
    for got, right in zip([*together, *afterwards], [*expected, expected[0]], strict=True):
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_native_engine_refuses_what_it_would_couple(name, networks):
    """Its plans have no relation between rows."""
    with pytest.raises(errors.Unavailable, match="cannot"):
        tune(networks[name], Schedule(), CompileOptions("native", "float32"), lambda stage: None)


@pytest.mark.parametrize("name", MODULES)
def test_calls_of_several_rows_would_give_other_answers(name, networks):
    """The tests above would pass in vain if their networks did not couple."""
    network = networks[name]
    x, t, _ = network.example(3)
    whole, alone = network.module(x, t), network.module(x[1:2], t[1:2])
    assert (whole[1] - alone[0]).norm() > 0.01 * alone.norm()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_rounding_by_another_number_of_rows_is_no_coupling(precision):
    class Deep(nn.Module):
        """Products that are cut differently for every number of rows, and no other relation."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(4)
            self.layers = nn.Sequential(*[nn.Linear(96, 96), nn.SiLU()] * 4)

        def forward(self, x, t):
            return self.layers(x.flatten(1)).view_as(x) + x

    network = Network(Deep(), (1, 8, 12))
    assert all(effect(network, precision, rows) is Effect.INDEPENDENT for rows in (2, 3, 8, 31))


class Leaking(nn.Module):
    """Rows leak a millionth of themselves into the others."""

    def forward(self, x, t):
        return 0.1 * x + 1e-6 * x.mean(0, keepdim=True)


class ByLabel(nn.Module):
    def forward(self, x, t, class_labels, weight):
        return x * (1 + class_labels[0]) * weight.amax()


class ManyRows(nn.Module):
    def forward(self, x, t):
        return x * (2.0 if x.shape[0] > 6 else 1.0)


@pytest.mark.parametrize(
    ("module", "rows", "expected"),
    [
        (Leaking(), None, Effect.COUPLED),
        (ByLabel(), None, Effect.COUPLED),
        (ManyRows(), None, Effect.INDEPENDENT),
        (ManyRows(), 7, Effect.COUPLED),
        (Mixer(), 7, Effect.INDEPENDENT),
    ],
)
def test_what_a_row_depends_on_is_told(module, rows, expected):
    inputs = {
        "class_labels": Conditioning(num_classes=3),
        "weight": Conditioning((2,), torch.float32),
    }
    network = Network(module, (1, 3, 5), inputs if isinstance(module, ByLabel) else {})
    assert effect(network, rows=rows) is expected


def test_a_size_that_couples_is_found_when_it_is_chosen(monkeypatch):
    """Two rows pass; the sizes that would serve do not, and the report says so."""
    monkeypatch.setattr("fastdiff.compiling.tuning.BATCHES", (1, 8))
    choices = CompileOptions("eager", "float32", tune=1e6)
    network = Network(ManyRows(), (1, 3, 5))
    compiled = tune(network, Schedule(), choices, lambda stage: None)
    assert [(c.batch, c.coupled) for c in compiled.report.candidates] == [(1, True)]
    assert list(compiled.batch_seconds) == [1]
    assert isinstance(compiled.denoiser, FixedBatch)


class Counting(nn.Module):
    """Keeps something from call to call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, t):
        self.calls += 1
        return x * (1 + self.calls)


class Drawing(nn.Module):
    def forward(self, x, t):
        return nn.functional.dropout(x, 0.5, training=True)


@pytest.mark.parametrize("module", [Counting(), Drawing()])
def test_a_network_that_answers_differently_after_other_calls_is_refused(module):
    network = Network(module, (1, 3, 5))
    choices = {"backend": "eager", "precision": "float32", "tune": 0.01}
    reason = "it answers the same row differently after other calls"
    with pytest.raises(errors.Unavailable, match=f"eager float32: {reason}"):
        tune(network, Schedule(), CompileOptions(**choices), lambda stage: None)
    with pytest.warns(errors.AccuracyWarning) as warned:
        tune(network, Schedule(), CompileOptions(**choices, verify="warn"), lambda stage: None)
    assert any(reason in str(warning.message) for warning in warned)
    compiled = tune(
        network, Schedule(), CompileOptions(**choices, verify="off"), lambda stage: None
    )
    with pytest.raises(
        errors.Unavailable, match="batch_invariant=True: model on eager gives a row"
    ):
        Sampler(compiled, batch_invariant=True)


def test_a_file_and_new_weights_keep_rows_apart(tmp_path):
    """Also where the first weights hide it: the norm's output is multiplied by zero."""
    options = {"sample_shape": SAMPLE_SHAPE, "backend": "eager", "precision": "float32"}
    module = MODULES["batch statistics"]()
    with torch.no_grad():
        module.outer.weight.zero_()
    sampler = fastdiff.compile(module, **options, max_batch=4, tune=0.01, cache=False)
    assert not sampler.report.chosen.coupled
    trained = MODULES["batch statistics"]()
    sampler.update_weights(trained)
    assert sampler.report.chosen.coupled
    together = sampler.sample(seed=[1, 2, 3], steps=3)
    torch.testing.assert_close(sampler.sample(seed=[2], steps=3), together[1:2])

    sampler = fastdiff.compile(trained, **options, tune=0.01, cache=False, batch_invariant=True)
    sampler.save(tmp_path / "coupled.fastdiff")
    together = sampler.sample(seed=[1, 2, 3], steps=3)
    assert torch.equal(sampler.sample(seed=[2], steps=3), together[1:2])
    loaded = fastdiff.load(tmp_path / "coupled.fastdiff", verify=True)
    assert loaded.report.chosen.coupled

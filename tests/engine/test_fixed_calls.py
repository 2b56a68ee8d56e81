"""batch_invariant: the same bits alone and under load, on engines that do not promise it."""

import pytest
import torch
from networks import Mixer

import fastdiff
from fastdiff.backends import build_denoiser
from fastdiff.engine.batcher import Batching
from fastdiff.engine.engine import Engine
from fastdiff.engine.fixed_calls import FixedCall, invariant_batch
from fastdiff.engine.policies import SHORTEST_REMAINING
from fastdiff.errors import Unavailable
from fastdiff.networks import Network


class Sociable(torch.nn.Module):
    """Each row leaks a little into the others: what no batch size can hide but 1."""

    def forward(self, x, t):
        return 0.1 * x + 1e-6 * x.mean(0, keepdim=True)


class Placed(torch.nn.Module):
    """A row's last bits depend on where it lies in the batch, from the fourth place on."""

    def forward(self, x, t):
        place = (torch.arange(len(x)) >= 3).float()[:, None, None, None]
        return 0.1 * x * (1 + 1e-6 * place)


class Pairs(torch.nn.Module):
    """Both rows of a pair get the same company at either place: each other."""

    def forward(self, x, t):
        return 0.1 * x + 1e-6 * x.flip(0)


class Loudest(torch.nn.Module):
    """Rounds to a grid of the loudest row's, which rows that are as loud do not change."""

    def forward(self, x, t):
        grid = torch.exp2(torch.ceil(torch.log2(x.abs().amax())) - 40)
        return torch.round(0.1 * x / grid) * grid


@pytest.mark.parametrize(
    ("module", "rows"),
    [(Sociable(), 1), (Placed(), 3), (Mixer(), 8), (Pairs(), 1), (Loudest(), 1)],
)
def test_the_fastest_size_is_taken_at_which_bits_know_neither_place_nor_company(module, rows):
    network = Network(module, (1, 3, 5))
    denoiser = build_denoiser("eager", network, "float32")
    measured = {1: 1.0, 2: 1.7, 3: 2.0, 8: 3.0, 64: 4.0}
    assert invariant_batch(network, denoiser, measured) == (rows, measured[rows])


class Conditional(Mixer):
    """Convolutions, a matrix product over all pixels, and a label."""

    def __init__(self):
        super().__init__()
        self.pixels = torch.nn.Linear(16, 16)
        self.labels = torch.nn.Embedding(4, 16)

    def forward(self, x, t, class_labels):
        pixels = self.pixels(x.flatten(1)) + self.labels(class_labels)
        return super().forward(torch.tanh(pixels).view(-1, 1, 4, 4), t)


@pytest.fixture(scope="module")
def sampler():
    return fastdiff.compile(
        Conditional(),
        sample_shape=(1, 4, 4),
        num_classes=3,
        null_class=3,
        backend="eager",
        precision="float32",
        tune=0.01,
        cache=False,
        batch_invariant=True,
    )


@pytest.fixture(scope="module")
def saved(sampler, tmp_path_factory):
    path = tmp_path_factory.mktemp("invariant") / "model.fastdiff"
    sampler.save(path)
    return path


@pytest.mark.parametrize("name", ["eager", "onnxruntime"])
def test_an_image_has_the_same_bits_alone_and_under_load(sampler, saved, name):
    file = fastdiff.load(saved)  # its network lies in a folder that goes with it
    network, denoiser = file.network, sampler._compiled.denoiser
    if name == "onnxruntime":
        denoiser = build_denoiser(name, network, "float32")

    def new_engine(limit=None):
        batching = Batching(SHORTEST_REMAINING, limit)
        measured = {1: 1.0, 4: 2.0}
        return Engine(network, denoiser, measured, batching=batching, batch_invariant=True)

    requests = [
        sampler.request(n, steps=steps, seed=seed, class_labels=seed, guidance_scale=guidance)
        for seed, (n, steps, guidance) in enumerate([(1, 4, 1.0), (3, 2, 1.0), (2, 3, 2.0)])
    ]
    loaded = new_engine(limit=5)
    assert list(loaded.executor.batch_seconds) == [4]
    tickets = []
    for request in requests:
        tickets.append(loaded.submit(request, patience=1e6))
        loaded.tick()
    while not all(ticket.done for ticket in tickets):
        loaded.tick()
    alone = new_engine()
    for request, ticket in zip(requests, tickets, strict=True):
        own = alone.submit(request)
        while not own.done:
            alone.tick()
        assert torch.equal(own.result(), ticket.result())
    usual = sampler.sample(3, steps=2, seed=1, class_labels=1)
    torch.testing.assert_close(tickets[1].result(), usual, rtol=0, atol=1e-4)


def test_nothing_of_former_calls_is_in_a_fixed_call():
    """Places that no row takes hold copies of the last, not what a former step left there."""
    network = Network(Sociable(), (1, 3, 5))
    denoiser = build_denoiser("eager", network, "float32")
    inputs, t = torch.randn(4, 15, generator=torch.Generator().manual_seed(0)), torch.ones(4)
    inputs[3] *= 1e4

    def evaluate(call, *rows):
        output = torch.empty(len(rows), 1, 3, 5)
        call.evaluating(inputs, torch.tensor(rows), t[: len(rows)], {}, output)()
        return output

    used, new = (FixedCall(network, denoiser, 3) for _ in range(2))
    evaluate(used, 1, 2, 3)
    got = evaluate(used, 0)
    assert torch.equal(got, evaluate(new, 0))
    copies = inputs[:1].view(1, 1, 3, 5).repeat(3, 1, 1, 1)
    torch.testing.assert_close(got, network.module(copies, t[:3])[:1])


def test_a_swapped_denoiser_is_checked_anew():
    network = Network(Placed(), (1, 3, 5))
    first, second = (build_denoiser("eager", network, "float32") for _ in range(2))
    engine = Engine(network, first, {8: 1.0}, batch_invariant=True)
    assert engine.executor.batch_seconds == {1: 1.0}
    engine.replace(second, {3: 2.0})
    assert engine.executor.batch_seconds == {3: 2.0}


def test_a_gpu_cannot_be_asked_for_it():
    network = Network(Placed(), (1, 3, 5))
    denoiser = build_denoiser("eager", network, "float32")
    with pytest.raises(Unavailable, match="batch_invariant=True is for backends on the host"):
        Engine(network, denoiser, {4: 1.0}, device=object(), batch_invariant=True)


def test_compile_and_load_take_it_and_no_file_keeps_it(sampler, saved):
    loaded = fastdiff.load(saved, batch_invariant=True)
    for each in (sampler, loaded):
        together = each.sample(seed=[5, 6, 7], steps=3)
        assert torch.equal(each.sample(seed=[6], steps=3), together[1:2])
        # What was saved has no module, so another backend was chosen: native has nothing to fix.
        backends = {c.backend for c in each.report.candidates if c.chosen_from is not None}
        fixed = len(each.engine.executor.batch_seconds) == 1
        assert fixed == (backends != {"native"})
    usual = fastdiff.load(saved)
    assert len(usual.engine.executor.batch_seconds) > 1

"""Networks that look t up in a table."""

import pytest
import torch
from diffusers_models import unet2d
from torch import nn

import fastdiff
from fastdiff import Conditioning, errors
from fastdiff.integrations import describe
from fastdiff.networks import Network, WholeTimes

SHAPE = (2, 3, 5)
QUICK = {"precision": "float32", "max_batch": 1, "tune": 0.001}


class Table(nn.Module):
    """Adds an embedding of t, which differs at random from one time to the next."""

    def __init__(self, times=1000):
        super().__init__()
        torch.manual_seed(0)
        self.times, self.conv = nn.Embedding(times, 2), nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x, t):
        return torch.tanh(self.conv(x) + self.times(t)[:, :, None, None])


class Rounding(Table):
    """The same, for times as all other networks have them."""

    def forward(self, x, t):
        return super().forward(x, t.round().long())


@pytest.mark.parametrize("backend", ["eager", "onnxruntime"])
def test_a_table_of_times_samples_as_one_that_rounds(backend):
    images = []
    for model in (Table(), Rounding()):
        sampler = fastdiff.compile(model, sample_shape=SHAPE, backend=backend, cache=False, **QUICK)
        images.append(sampler.sample(2, solver="euler", steps=7, seed=1))  # at 832.5, among others
    torch.testing.assert_close(images[0], images[1], rtol=1e-5, atol=1e-5)


def test_learned_times_of_diffusers_are_found():
    model = unet2d(time_embedding_type="learned", num_train_timesteps=40)
    network, _ = describe(model, schedule={"num_train_timesteps": 40})
    assert isinstance(network.probed().module, WholeTimes)


def test_whole_times_are_known_of_what_was_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    options = {"sample_shape": SHAPE, "backend": "eager", **QUICK}
    first = fastdiff.compile(Table(), **options).sample(2, steps=3, seed=1)
    again = fastdiff.compile(Table(), **options)
    assert torch.equal(again.sample(2, steps=3, seed=1), first)
    again.update_weights(Table())
    assert torch.equal(again.sample(2, steps=3, seed=1), first)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_whole_times_can_be_declared(dtype):
    class Halving(nn.Module):
        """Runs on floats as well, with another meaning."""

        def forward(self, x, t):
            assert t.dtype == dtype
            return x * (t // 2)[:, None, None, None]

    declared = {"t": Conditioning(dtype=dtype)}
    network, _ = describe(Halving(), sample_shape=SHAPE, conditioning=declared)
    assert network.conditioning == {}
    got = network.require_module()(torch.ones(2, *SHAPE), torch.tensor([3.4, 3.6]))
    assert got[:, 0, 0, 0].tolist() == [1.0, 2.0]
    with pytest.raises(errors.InvalidArgument, match=r"expected Conditioning.*, got torch.float32"):
        describe(Halving(), sample_shape=SHAPE, conditioning={"t": Conditioning((), torch.float32)})


def test_a_program_says_itself_that_its_times_are_whole():
    example = (torch.ones(2, *SHAPE), torch.tensor([3, 4]))
    rows = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Table().eval(), example, dynamic_shapes=(rows, rows))
    network, _ = describe(program)
    t = torch.tensor([2.6, 4.2])
    expected = Table()(example[0], example[1])
    torch.testing.assert_close(network.require_module()(example[0], t), expected)


def test_a_table_shorter_than_the_schedule_is_named():
    message = r"Table does not run on x .*, t .*, with times up to 999, where num_train_timesteps "
    with pytest.raises(errors.InvalidArgument, match=message + "is 1000: index out of range"):
        fastdiff.compile(Table(500), sample_shape=SHAPE, cache=False)


def test_a_module_that_fails_is_told_with_its_inputs():
    class Failing(nn.Module):
        def forward(self, x, t):
            raise KeyError("gamma")

    with pytest.raises(
        errors.InvalidArgument, match=r"t \(2,\) torch.float32, .*: 'gamma'"
    ) as info:
        Network(Failing(), SHAPE, name="failing").probed()
    assert isinstance(info.value.__cause__, KeyError)

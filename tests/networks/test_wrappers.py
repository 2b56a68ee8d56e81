"""Wrappers that are taken off a module."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from fastdiff.networks import evaluation_copy, unwrapped


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(self.layer(x))


class Halved(nn.Module):
    def forward(self, weight):
        return 0.5 * weight


def in_bfloat16(module):
    accelerate = pytest.importorskip("accelerate", reason="prepares models")
    return accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(module)


def with_a_hook(module):
    hooks = pytest.importorskip("accelerate.hooks", reason="moves weights")
    return hooks.add_hook_to_module(module, hooks.ModelHook())


def with_an_adapter(module):
    peft = pytest.importorskip("peft", reason="has adapters")
    return peft.get_peft_model(module, peft.LoraConfig(target_modules=["layer"], r=2))


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of torch.compile
@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        in_bfloat16,
        with_a_hook,
        lambda module: torch.compile(nn.DataParallel(module)),
    ],
)
def test_what_is_wrapped_comes_out(wrap):
    module, x = Twice(), torch.randn(2, 3)
    expected = module(x)
    wrapped = wrap(module)
    before = dict(vars(module))
    inner = unwrapped(wrapped)
    assert type(inner) is Twice
    assert inner.layer is module.layer
    assert vars(module) == before
    assert "forward" not in vars(inner)
    assert torch.equal(inner(x), expected)
    assert torch.equal(evaluation_copy(nn.Sequential(wrapped))(x), expected)


def test_an_average_is_its_own_weights():
    module, x = Twice(), torch.randn(2, 3)
    averaged = AveragedModel(module)
    averaged.update_parameters(module)
    with torch.no_grad():
        module.layer.weight.zero_()
    assert torch.equal(unwrapped(averaged)(x), averaged(x))


def test_adapters_stay_in_the_module():
    module, x = Twice(), torch.randn(2, 3)
    plain = module(x)
    adapted = with_an_adapter(module)
    nn.init.ones_(module.layer.lora_B["default"].weight)
    assert type(unwrapped(adapted)) is Twice
    assert torch.equal(unwrapped(adapted)(x), adapted(x))
    assert not torch.allclose(adapted(x), plain)


def test_a_module_that_is_not_wrapped_is_left_as_it_is():
    module, own = Twice(), Twice()
    parametrize.register_parametrization(module.layer, "weight", Halved())
    own.forward = lambda x: 2 * x
    assert unwrapped(module) is module
    assert unwrapped(own) is own
    x = torch.randn(2, 3)
    assert torch.equal(evaluation_copy(module)(x), module(x))


def test_a_forward_that_the_user_has_set_outlives_a_hook():
    module = Twice()
    module.forward = lambda x: 2 * x
    assert unwrapped(with_a_hook(module))(torch.ones(1)).item() == 2.0

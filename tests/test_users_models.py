"""What is compiled stays as it was, and so does the process that it is compiled in."""

import functools
import random
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fastdiff
import fastdiff.compiler  # now: rich, which it imports, draws random numbers for that
from fastdiff import errors

OPTIONS = {
    "sample_shape": (2, 3, 5),
    "backend": "eager",
    "precision": "float32",
    "max_batch": 1,
    "tune": 0.001,
    "verify": "off",
    "cache": False,
}


class Body(nn.Module):
    """A small network whose middle is of the kind at hand."""

    def __init__(self, middle=None):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 4, 1) if middle is None else middle
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x, t):
        hidden = self.first(x) + torch.cos(t / 300).to(x.dtype)[:, None, None, None]
        return self.last(torch.tanh(self.middle(hidden)))


class Counting(nn.Module):
    """Counts its calls in an attribute and in a buffer."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.register_buffer("count", torch.zeros(1))

    def forward(self, h):
        self.calls += 1
        self.count += 1
        return h + 0.1 * self.count


class Remembering(nn.Module):
    """Keeps what it was given, and grows a table when it is first run."""

    def __init__(self):
        super().__init__()
        self.kept, self.table = [], {}

    def forward(self, h):
        self.last = h
        self.kept.append(h.mean())
        self.table.setdefault(h.shape[-1], torch.ones(h.shape[-1]))
        return h * self.table[h.shape[-1]]


class Noisy(nn.Module):
    """Draws from the process's random states, which it would rather not."""

    def forward(self, h):
        return h + 1e-9 * (torch.rand(()) + random.random() + np.random.rand())  # noqa: NPY002, S311


class Generating(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(7)

    def forward(self, h):
        return h + 1e-9 * torch.rand((), generator=self.generator)


class Delegating(nn.Module):
    """Finds unknown attributes in what it wraps."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 1)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, h):
        return nn.functional.conv2d(h, self.weight, self.bias)


class Normalising(nn.Module):
    """Changes its weights in place when it runs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, h):
        with torch.no_grad():
            self.weight /= self.weight.norm()
        return nn.functional.conv2d(h, self.weight)


class NotPersistent(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running", torch.zeros(4), persistent=False)

    def forward(self, h):
        self.running.lerp_(h.detach().mean((0, 2, 3)), 0.1)
        return h - self.running[:, None, None]


class Symmetric(nn.Module):
    def forward(self, weight):
        return (weight + weight.transpose(0, 1)) / 2


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.two.weight = self.one.weight

    def forward(self, h):
        return self.two(self.one(h))


def hooked():
    model = Body()

    def note(module, inputs, output):
        module.seen = getattr(module, "seen", 0) + 1
        return output * 1.5

    model.middle.register_forward_hook(note)
    model.register_forward_pre_hook(lambda module, inputs: setattr(module, "begun", True))
    model.first.register_full_backward_hook(lambda *_: None)
    return model


def partly_frozen():
    model = Body()
    model.first.requires_grad_(False)
    model.middle.weight.grad = torch.ones_like(model.middle.weight)
    return model


def run_before(model):
    """A model that has been trained a little: it holds tensors with a gradient's history."""
    model(torch.ones(2, 2, 3, 5), torch.ones(2)).sum().backward()
    return model


def quantised():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(60, 60), nn.Unflatten(1, (4, 3, 5)))
    return Body(torch.ao.quantization.quantize_dynamic(linear, {nn.Linear}))


def scripted():
    return torch.jit.trace(Body(), (torch.ones(2, 2, 3, 5), torch.ones(2)))


def partly_evaluating():
    model = Body(nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5)))
    model.middle[1].eval()
    return model


def old_weight_norm():
    return Body(torch.nn.utils.weight_norm(nn.Conv2d(4, 4, 1)))


def parametrised():
    model = Body()
    parametrize.register_parametrization(model.middle, "weight", Symmetric())
    return model


KINDS = {
    "batch norm": lambda: Body(nn.BatchNorm2d(4)),
    "dropout": lambda: Body(nn.Dropout(0.3)),
    "modes of its parts": partly_evaluating,
    "hooks": hooked,
    "parametrization": parametrised,
    "weight norm": lambda: Body(parametrizations.weight_norm(nn.Conv2d(4, 4, 1))),
    "old weight norm": old_weight_norm,
    "spectral norm": lambda: Body(parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))),
    "old spectral norm": lambda: Body(torch.nn.utils.spectral_norm(nn.Conv2d(4, 4, 1))),
    "buffer that is not persistent": lambda: Body(NotPersistent()),
    "shared parameters": lambda: Body(Shared()),
    "frozen parts and gradients": partly_frozen,
    "half precision": lambda: Body().half(),
    "double precision": lambda: Body().double(),
    "counter": lambda: Body(Counting()),
    "memory of its inputs": lambda: Body(Remembering()),
    "results of training": lambda: run_before(Body(Remembering())),
    "random numbers": lambda: Body(Noisy()),
    "generator": lambda: Body(Generating()),
    "quantised part": quantised,
    "torch.compile": lambda: torch.compile(Body(nn.BatchNorm2d(4))),
    "part with torch.compile": lambda: Body(torch.compile(nn.BatchNorm2d(4))),
    "script": scripted,
    "__getattr__": lambda: Body(Delegating()),
    "weights changed in place": lambda: Body(Normalising()),
}


def snapshot(value, seen=None):
    """Return the content of a value as nested plain tuples, with the identity of its parts."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        gradient = value.grad if value.is_leaf else None
        facts = (value.dtype, value.device, value.requires_grad, value.data_ptr(), value._version)
        bits = value.detach().numpy().tobytes()
        return (id(value), *facts, bits, snapshot(gradient, seen))
    if isinstance(value, torch.Generator):
        return id(value), value.get_state().numpy().tobytes()
    if id(value) in seen:
        return id(value)
    seen.add(id(value))
    if isinstance(value, dict):
        return id(value), [(name, snapshot(part, seen)) for name, part in value.items()]
    if isinstance(value, (list, tuple)):
        return id(value), [snapshot(part, seen) for part in value]
    if isinstance(value, torch.jit.ScriptModule):
        state = {**dict(value.named_parameters()), **dict(value.named_buffers())}
        return id(value), value.training, [snapshot(v)[1:] for v in state.values()]
    if isinstance(value, nn.Module):
        return id(value), type(value), snapshot(vars(value), seen)
    return value


def process():
    """Return the state of the process that a compilation might touch."""
    mode = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype())
    flags = (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads())
    states = (torch.get_rng_state().numpy().tobytes(), random.getstate())
    legacy = np.random.get_state()  # noqa: NPY002
    return mode, flags, states, legacy[1].tobytes(), legacy[2:]


def closure(model):
    return lambda x, t: model(x, t)


def decorated(model):
    @torch.no_grad()
    def predict(x, t, *, net=model):
        return net(x, t)

    return predict


def of_a_global_name(model):
    code = "def helper(x, t):\n    return net(x, t)\ndef predict(x, t):\n    return helper(x, t)"
    names = {"net": model}
    exec(code, names)  # noqa: S102 - as in a notebook
    return names["predict"]


class Guide:
    def __init__(self, model):
        self.model = model

    def predict(self, x, t):
        return self.model(x, t)


FUNCTIONS = {
    "closure": closure,
    "decorated": decorated,
    "global name": of_a_global_name,
    "list": lambda model: (lambda models: lambda x, t: models[0](x, t))([model]),
    "method": lambda model: Guide(model).predict,
    "partial": lambda model: functools.partial(lambda net, x, t: net(x, t), model),
    "torch.compile": lambda model: torch.compile(closure(model)),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.filterwarnings("ignore:.*deprecated")  # in torch.compile's own code
def test_compile_leaves_what_a_function_uses(kind):
    torch.manual_seed(3)
    model = Body(nn.BatchNorm2d(4))
    function = FUNCTIONS[kind](model)
    before = snapshot(model)
    sampler = fastdiff.compile(function, **OPTIONS)
    images = sampler.sample(1, steps=2, seed=0)
    assert snapshot(model) == before
    with torch.no_grad():
        model.last.weight.zero_()
    assert torch.equal(sampler.sample(1, steps=2, seed=0), images)


def test_what_cannot_be_copied_is_refused_by_name():
    model = Body()
    model.lock = threading.Lock()
    with pytest.raises(
        errors.InvalidArgument, match=r"Body cannot be copied, .*lock.*__deepcopy__"
    ):
        fastdiff.compile(model, **OPTIONS)
    model = Body(nn.LazyConv2d(4, 1))
    with pytest.raises(errors.InvalidArgument, match=r"middle.weight has no values yet: run"):
        fastdiff.compile(model, **OPTIONS)


def test_training_on_does_not_change_what_was_compiled(tmp_path):
    torch.manual_seed(3)
    model = Body()
    sampler = fastdiff.compile(model, **OPTIONS)
    images = sampler.sample(1, steps=2, seed=0)
    with torch.no_grad():
        model.last.weight.zero_()
    sampler.save(tmp_path / "body.fastdiff")
    loaded = fastdiff.load(tmp_path / "body.fastdiff")
    torch.testing.assert_close(loaded.sample(1, steps=2, seed=0), images, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*deprecated")  # old ways of torch, which people still use
def test_compile_leaves_the_users_module_bit_for_bit(kind):
    torch.manual_seed(3)
    model = KINDS[kind]()
    before, around = snapshot(model), process()
    sampler = fastdiff.compile(model, **OPTIONS)
    assert snapshot(model) == before
    assert process() == around
    assert bool(sampler.sample(1, steps=2, seed=0).isfinite().all())
    assert snapshot(model) == before

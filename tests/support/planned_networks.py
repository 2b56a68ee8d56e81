"""Small networks of every kind that the native backend reads, traced once."""

import functools
from types import SimpleNamespace

import numpy as np
import torch
from diffusers_models import dit, unet2d, unet2d_condition

from fastdiff import _native
from fastdiff.integrations.describing import describe
from fastdiff.native import bind, pack
from fastdiff.networks.precision import AtPrecision, trace

BATCH = 3

LEVELS = [name for name, reason in _native.network_levels().items() if reason is None]

MODELS = {
    "digits": lambda: "digits",
    "ddpm": lambda: unet2d(
        in_channels=3, out_channels=3, block_out_channels=(8, 16), norm_num_groups=4,
        attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
    ),
    "scale_shift": lambda: unet2d(
        in_channels=3, out_channels=6, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"), attention_head_dim=8,
        resnet_time_scale_shift="scale_shift", num_class_embeds=7,
    ),
    "dit": lambda: dit(sample_size=8, activation_fn="gelu-approximate"),
    "text": lambda: unet2d_condition(),
    "text_linear": lambda: unet2d_condition(
        block_out_channels=(8,), down_block_types=("CrossAttnDownBlock2D",), mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",), use_linear_projection=True,
    ),
}  # fmt: skip


def traced(network):
    """Return the network, its program, inputs as arrays, and torch's output, (B, elements)."""
    module = AtPrecision(network.require_module(), torch.float32)
    x, t, conditioning = network.example(BATCH, seed=3)
    t = t + 0.25
    with torch.no_grad():
        expected = module(x, t, conditioning).flatten(1).numpy()
    inputs = {"x": x.numpy(), "t": t.numpy(), **{k: v.numpy() for k, v in conditioning.items()}}
    program = trace(module, network, torch.float32)
    return SimpleNamespace(network=network, program=program, inputs=inputs, expected=expected)


@functools.cache
def traced_model(name):
    network = describe(MODELS[name]())[0]
    generator = torch.Generator().manual_seed(1)
    for parameter in network.module.parameters():  # zeros and ones would hide mistakes
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return traced(network)


def error(got, expected):
    """Largest error of an element, as a part of the largest element."""
    return np.abs(got - expected).max() / np.abs(expected).max()


def evaluate(plan, inputs, rows, choices, level):
    """Run a plan on the kernels for the first `rows` of `inputs`, in memory that is poisoned."""
    held = {name: np.ascontiguousarray(value[:rows]) for name, value in inputs.items()}
    held["output"] = np.full((rows, plan.buffers["output"].size), np.nan, np.float32)
    arena = np.full(rows * plan.arena_floats + 16, np.nan, np.float32)
    start = arena.ctypes.data
    packed = pack(plan, choices, level)
    native = _native.NetworkPlan(level)
    addresses = {name: array.ctypes.data for name, array in held.items()}
    bind(plan, native, rows, addresses, start + -start % 64, packed, choices)
    native.run(2)
    return held["output"]

"""What is read computes what torch computes; what cannot be read is refused by name."""

import pytest
import torch
from planned_networks import MODELS, error
from torch import nn
from torch.nn import functional

from fastdiff.errors import Unavailable
from fastdiff.native import make_plan, read_graph, run_reference
from fastdiff.native.planning.building import assign_memory
from fastdiff.networks import Conditioning, Network


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_computes_what_torch_computes(model, name):
    case = model(name)
    got = run_reference(make_plan(case.program, case.network), case.inputs, len(case.expected))
    assert error(got, case.expected) < 5e-6


def layer(function, *modules):
    """A module that computes `function` of itself, x and t."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(build() for build in modules)

        def forward(self, x, t):
            return function(self.layers, x, t)

    return Layer


def half_and_whole(x):
    """Read half of x, which the exported graph takes from before the change, after it."""
    half = x[:, :1]
    return functional.silu(x, inplace=True) + half


def conv(**options):
    return lambda: nn.Conv2d(3, 3, **{"kernel_size": 3, "padding": 1, **options})


OPERATORS = {
    "conv_stride": layer(
        lambda m, x, t: m[1](m[0](x)),
        conv(stride=2, kernel_size=5, padding=2),
        lambda: nn.ConvTranspose2d(3, 3, 2, stride=2),
    ),
    "asymmetric_padding": layer(
        lambda m, x, t: m[0](functional.pad(x, (0, 1, 2, 0))), conv(kernel_size=(3, 2), padding=0)
    ),
    "doubled_and_averaged": layer(
        lambda m, x, t: functional.avg_pool2d(
            functional.silu(functional.interpolate(x, scale_factor=2.0)), 2
        )
    ),
    "numbers": layer(lambda m, x, t: 2 - (1 / (x * x + 3)).clamp(min=0.2, max=0.3) * -x + x / 1.0),
    "bounds": layer(
        lambda m, x, t: (3 * x).clamp(-1, 1)
        + (3 * x).clamp(0, 1)
        + torch.minimum(3 * x, torch.ones(3, 1, 1))
        + torch.maximum(torch.tensor(1.0), 3 * x)
    ),
    "signs_of_zero": layer(
        lambda m, x, t: sum((1 / zero).clamp(-1, 1) for zero in (x * x * -0.0 + 0.0, x * x * -0.0))
        + x
    ),
    "own_divisor": layer(
        lambda m, x, t: functional.avg_pool2d(
            functional.interpolate(x, scale_factor=2.0), 2, divisor_override=3
        )
    ),
    "windows": layer(
        lambda m, x, t: torch.cat(
            [
                functional.avg_pool2d(m[0](x), 3, 2, 1, **options).flatten(1)
                for options in (
                    {}, {"ceil_mode": True}, {"count_include_pad": False}, {"divisor_override": -7},
                    {"ceil_mode": True, "count_include_pad": False},
                )
            ], 1,
        ),
        conv(),
    ),
    "windows_of_tokens": layer(
        lambda m, x, t: functional.avg_pool2d(x.flatten(1, 2), (4, 3), (2, 1), (1, 0)).flatten(1)
    ),
    "windows_by_their_number": layer(
        lambda m, x, t: functional.adaptive_avg_pool2d(x, 1)
        * functional.adaptive_avg_pool2d(x, (3, None))
        + functional.adaptive_avg_pool2d(x, (3, 1))
    ),
    "nothing_joined": layer(
        lambda m, x, t: torch.cat([x[:, 3:], x, torch.empty(0)], 1).split([0, 3], 1)[1] * 2
    ),
    "constants_of_every_row": layer(
        lambda m, x, t: x * torch.zeros(x.shape[0], 3).cos().unflatten(1, (3, 1, 1))
        + m[0](torch.zeros(2 * x.shape[0], 3)).mean(),
        lambda: nn.Linear(3, 3),
    ),
    "functions": layer(
        lambda m, x, t: torch.exp(-x.sigmoid())
        + torch.sqrt(x**2 + 1).log()
        + functional.gelu(x).tanh()
    ),
    "time": layer(
        lambda m, x, t: (
            x.flatten(1) * torch.cos(t)[:, None] + torch.ones(t.shape[0], 1)
        ).view_as(x)
    ),
    "root_mean_square": layer(
        lambda m, x, t: m[0](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), lambda: nn.RMSNorm(3)
    ),
    "in_place": layer(lambda m, x, t: m[1](m[0](x)), conv(), lambda: nn.SiLU(inplace=True)),
    "heads_in_the_batch": layer(
        lambda m, x, t: functional.scaled_dot_product_attention(
            *(x.reshape(-1, 6, 4) * scale for scale in (1.0, 2.0, -1.0)), scale=0.3
        ).reshape(-1, 3, 6, 4)
    ),
    "groups": layer(lambda m, x, t: m[0](x), conv(groups=3)),
    "padding_alone": layer(
        lambda m, x, t: functional.silu(functional.pad(x, (1, 2, 0, 1), value=0.5))[..., :-1, 1:-2]
        + functional.pad(x, (-1, 1, 1, -1, 1, 0))[:, 1:]
    ),
    "padding_modes": layer(
        lambda m, x, t: (
            m[0](x) + m[1](x) + functional.pad(x, (1, 1, 2, 0), "circular")[..., 2:, 2:]
        ),
        conv(padding_mode="reflect"),
        conv(padding_mode="replicate"),
    ),
    "moved_and_brought_back": layer(
        lambda m, x, t: sum(
            part * scale
            for part, scale in zip(
                m[0](x.flatten(2).mT).reshape(-1, 24, 3, 1, 3).permute(2, 0, 3, 4, 1),
                (1, 2, -1),
                strict=True,
            )
        ).reshape(-1, 3, 6, 4),
        lambda: nn.Linear(3, 9),
    ),
    "unbound_and_stacked": layer(
        lambda m, x, t: torch.stack([-part for part in x.movedim(1, 2).unbind(2)], 2).mT
        .reshape(-1, 6, 4, 3).permute(0, 3, 1, 2)
    ),
    "sequences": layer(
        lambda m, x, t: m[2](functional.silu(m[1](m[0](x.flatten(2))))).view_as(x),
        lambda: nn.Conv1d(3, 8, 5, padding=2),
        lambda: nn.Conv1d(8, 6, 3, stride=2, padding=1),
        lambda: nn.ConvTranspose1d(6, 3, 4, stride=2, padding=1),
    ),
    "transposed": layer(
        lambda m, x, t: m[0](x)[..., :6, :4] + m[1](x) + m[2](x)[..., 3:9, 1:5],
        lambda: nn.ConvTranspose2d(3, 3, 4, 2, 1),
        lambda: nn.ConvTranspose2d(3, 3, 3, 1, 1),
        lambda: nn.ConvTranspose2d(3, 3, (5, 2), (2, 3), (2, 0), (1, 0)),
    ),
    "products_with_constants": layer(
        lambda m, x, t: x @ m[0].weight.t()
        + m[1].weight @ x
        + torch.einsum("nchw,hk->nckw", x, m[1].weight)
        + torch.einsum("kw,nchw->nhck", m[0].weight, x).movedim(2, 1)
        + torch.outer(t, m[0].bias)[:, None, None]
        + torch.addmm(m[0].bias, x[:, 0, 0], m[0].weight, beta=2, alpha=0.5)[:, None, None],
        lambda: nn.Linear(4, 4),
        lambda: nn.Linear(6, 6),
    ),
    "fillers": layer(
        lambda m, x, t: torch.cat(
            [torch.zeros_like(x), x.new_ones(x.shape[0], 1, 6, 4), torch.full_like(x, 0.5) * x], 1
        )[:, 2:5]
        + x * x.new_full((3, 1, 1), 2.0).expand(3, 6, 4)
    ),
    "piecewise": layer(
        lambda m, x, t: functional.leaky_relu(x, 0.2) + m[0](x) + functional.hardswish(4 * x)
        + functional.relu6(9 * x) + functional.hardtanh(x, -0.5, 0.25) + x.abs() + x.square()
        + torch.addcmul(x, x, t[:, None, None, None] / 1000, value=-0.5)
        + x.abs() ** 0.5 + (x * x + 1) ** -0.5 + x**3,
        lambda: nn.PReLU(3, init=0.3),
    ),
    "statistics_of_training": layer(
        lambda m, x, t: m[0].requires_grad_(False)(x), lambda: nn.BatchNorm2d(3).eval()
    ),
    "shuffled": layer(
        lambda m, x, t: functional.pixel_shuffle(functional.pixel_unshuffle(x, 2) * 2, 2)
        + x[:, :, :3].repeat_interleave(2, dim=2)
        + functional.interpolate(x[..., 0], scale_factor=2.0)[..., :6, None]
    ),
    "twice_the_same": layer(lambda m, x, t: m[0](torch.cat([x, x], 1)[:, 1:4]) + x, conv()),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_computes_what_torch_computes(read, name):
    case = read(OPERATORS[name])
    before = run_reference(assign_memory(case.graph), case.inputs, len(case.expected))
    assert error(before, case.expected) < 2e-6
    after = run_reference(make_plan(case.program, case.network), case.inputs, len(case.expected))
    assert error(after, case.expected) < 2e-6


REFUSED = {
    "operator": (layer(lambda m, x, t: torch.cumsum(x, 2)), "aten.cumsum.default"),
    "along_the_batch": (layer(lambda m, x, t: torch.cat([x, x])[: x.shape[0]]), "along the batch"),
    "moved_batch": (layer(lambda m, x, t: (x.transpose(0, 1) * 2).transpose(0, 1)), "batch"),
    "size_of_the_batch": (layer(lambda m, x, t: x / x.shape[0]), "size of the batch"),
    "place_in_the_batch": (
        layer(lambda m, x, t: x + torch.arange(x.shape[0])[:, None, None, None].float()),
        "size of the batch",
    ),
    "other_types": (layer(lambda m, x, t: (x.double() * 2).float()), "torch.float64"),
    "changed_for_others": (layer(lambda m, x, t: half_and_whole(x + 1)), "in place"),
    "nearly_doubled": (
        layer(lambda m, x, t: functional.interpolate(x, scale_factor=2.1)), "only a doubling",
    ),
    "windows_of_two_sizes": (
        layer(lambda m, x, t: functional.adaptive_avg_pool2d(x, (4, 2))),
        "aten.adaptive_avg_pool2d.default.*6x4 pixels, 4x2 windows",
    ),
    "times_of_others": (layer(lambda m, x, t: x * (t + t[:, None])[:, :1, None, None]), "batch"),
    "order_in_the_batch": (
        layer(lambda m, x, t: x * torch.ones(x.shape[0]).cumsum(0)[:, None, None, None]),
        "aten.cumsum.default in the network: its result depends on the size of the batch",
    ),
    "row_of_a_table": (
        layer(lambda m, x, t: x * torch.arange(9.0)[x.shape[0]]), "size of the batch"
    ),
    "noise_of_its_own": (layer(lambda m, x, t: x + torch.randn(3, 1, 1)), "random numbers"),
    "memory_of_its_own": (
        layer(lambda m, x, t: x * m[0].running_mean.add_(1)[:, None, None],
              lambda: nn.BatchNorm2d(3)),
        "kept from call to call",
    ),
    "mask": (
        layer(lambda m, x, t: functional.scaled_dot_product_attention(x, x, x, is_causal=True)),
        "causal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_kernel_is_refused_by_name(read, name):
    module, reason = REFUSED[name]
    with pytest.raises(Unavailable, match=reason):
        read(module)


def test_labels_choose_rows_and_nothing_else(read):
    class Doubled(nn.Module):
        def forward(self, x, t, labels):
            return x * labels.reshape(-1, 1, 1, 1)

    with pytest.raises(Unavailable, match="labels"):
        read(Doubled, labels=Conditioning(num_classes=4))


def test_labels_join_no_numbers(read):
    class Joined(nn.Module):
        def forward(self, x, t, labels):
            return torch.cat([x.flatten(1), labels[:, None]], 1)[:, 1:].view_as(x)

    with pytest.raises(Unavailable, match="labels"):
        read(Joined, labels=Conditioning(num_classes=4))


def test_a_table_may_be_a_matrix_too(read):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(4, 4)

        def forward(self, x, t, labels):
            return functional.linear(x + self.table(labels)[:, None, None], self.table.weight)

    case = read(Tied, labels=Conditioning(num_classes=4))
    got = run_reference(make_plan(case.program, case.network), case.inputs, len(case.expected))
    assert error(got, case.expected) < 2e-6


def test_a_fixed_batch_is_refused(model):
    case = model("digits")
    fixed = Network(case.network.module, (1, 8, 8), case.network.conditioning, batch=2)
    with pytest.raises(Unavailable, match="takes 2 rows"):
        read_graph(case.program, fixed)

"""Attention, softmax and norms that networks write out, in the forms of published ones."""

import functools
import math

import pytest
import torch
from planned_networks import LEVELS, error, evaluate
from torch import nn
from torch.nn import functional

from fastdiff.errors import Unavailable
from fastdiff.native import make_plan, run_reference
from fastdiff.native.nodes import Attention, Map, Product, Reduce, Softmax
from fastdiff.native.planning.building import assign_memory


class Layer(nn.Module):
    """`function` of modules and an image."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(build() for build in modules)

    def forward(self, x, t):
        return self.function(self.layers, x)


def layer(function, *modules):
    return functools.partial(Layer, function, *modules)


HEADS, WIDTH = 2, 8  # of each head


def attention(attend, convolutions=3, width=WIDTH):
    """A module with a residual around ``attend(q, k, v)`` of 1 x 1 convolutions of 6 x 4 pixels.

    With one convolution, `attend` is given its output, which holds all three.
    """
    channels = HEADS * width
    made = [
        lambda: nn.Conv2d(3, 3 * channels // convolutions, 1, bias=False)
        for _ in range(convolutions)
    ]
    return layer(
        lambda m, x: x + m[-1](attend(*(each(x) for each in list(m)[:-1]))),
        *made,
        lambda: nn.Conv2d(channels, 3, 1),
    )


def tokens_apart(qkv):
    """Return q, k and v (B, heads, tokens, width) of (B, 3 heads width, H, W)."""
    return (part.unflatten(1, (HEADS, -1)).flatten(3).mT for part in qkv.chunk(3, 1))


def joined(y):
    """Return (B, heads, tokens, width) as an image."""
    return y.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, (6, 4))


def guided(legacy):
    """The two orders of OpenAI's guided diffusion: heads are folded into the batch."""

    def attend(qkv):
        batch, width, length = qkv.shape[0], qkv.shape[1], 24
        qkv, channels = qkv.reshape(batch, width, length), width // (3 * HEADS)
        scale = 1 / math.sqrt(math.sqrt(channels))
        if legacy:
            parts = qkv.reshape(batch * HEADS, channels * 3, length).split(channels, dim=1)
        else:
            shape = (batch * HEADS, channels, length)
            parts = [part.reshape(shape) for part in qkv.chunk(3, dim=1)]
        q, k, v = parts
        weight = torch.einsum("bct,bcs->bts", q * scale, k * scale)
        weight = torch.softmax(weight.float(), dim=-1).type(weight.dtype)
        y = torch.einsum("bts,bcs->bct", weight, v)
        return y.reshape(batch, -1, 6, 4)

    return attention(attend, 1)


def one_head(q, k, v):
    """The block of DDPM in PyTorch: products of whole images, and of the transposed weights."""
    batch, channels = q.shape[:2]
    scores = torch.bmm(q.reshape(batch, channels, 24).permute(0, 2, 1), k.reshape(batch, -1, 24))
    weights = functional.softmax(scores * int(channels) ** -0.5, dim=2)
    y = torch.bmm(v.reshape(batch, channels, 24), weights.permute(0, 2, 1))
    return y.reshape(batch, channels, 6, 4)


def crossed(q, k, v):
    """Latent diffusion's: tokens, heads folded into the batch, products by einsum."""
    batch = q.shape[0]

    def fold(image):
        tokens = image.flatten(2).transpose(1, 2).reshape(batch, 24, HEADS, WIDTH)
        return tokens.permute(0, 2, 1, 3).reshape(batch * HEADS, 24, WIDTH)

    q, k, v = map(fold, (q, k, v))
    weights = (torch.einsum("b i d, b j d -> b i j", q, k) * WIDTH**-0.5).softmax(dim=-1)
    y = torch.einsum("b i j, b j d -> b i d", weights, v)
    y = y.reshape(batch, HEADS, 24, WIDTH).permute(0, 2, 1, 3).reshape(batch, 24, -1)
    return y.transpose(1, 2).reshape(batch, -1, 6, 4)


def summed_batch(q, k, v):
    """Scores as diffusers has them: a product that is told to add nothing."""
    q, k, v = (image.flatten(2).transpose(1, 2) for image in (q, k, v))
    nothing = torch.empty(q.shape[0], 24, 24, dtype=q.dtype)
    scores = torch.baddbmm(nothing, q, k.transpose(-1, -2), beta=0, alpha=0.25)
    y = torch.bmm(scores.softmax(dim=-1), v)
    return y.transpose(1, 2).unflatten(2, (6, 4))


def pixels_of_heads(qkv):
    """Channels before pixels, and the queries scaled: "denoising diffusion", in full."""
    q, k, v = (part.unflatten(1, (HEADS, -1)).flatten(3) for part in qkv.chunk(3, dim=1))
    scores = torch.einsum("b h d i, b h d j -> b h i j", q * WIDTH**-0.5, k)
    y = torch.einsum("b h i j, b h d j -> b h i d", scores.softmax(dim=-1), v)
    return y.permute(0, 1, 3, 2).reshape(qkv.shape[0], -1, 6, 4)


def transformed(qkv):
    """Products as operators, and scores divided: what transformers on patches have."""
    q, k, v = tokens_apart(qkv)
    return joined(torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(WIDTH), dim=-1) @ v)


def linear(qkv):
    """Attention of linear cost: "denoising diffusion", with a softmax of queries and of keys."""
    q, k, v = (part.unflatten(1, (HEADS, -1)).flatten(3) for part in qkv.chunk(3, dim=1))
    q, k = q.softmax(dim=-2) * WIDTH**-0.5, k.softmax(dim=-1)
    context = torch.einsum("b h d n, b h e n -> b h d e", k, v)
    y = torch.einsum("b h d e, b h d n -> b h e n", context, q)
    return y.reshape(qkv.shape[0], -1, 6, 4)


def normed(qkv):
    """Queries and keys of length 1, and a fixed scale."""
    q, k, v = tokens_apart(qkv)
    q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
    return joined((torch.einsum("b h i d, b h j d -> b h i j", q, k) * 8).softmax(dim=-1) @ v)


def centred(qkv):
    """Scores less their largest, which changes nothing but is another program."""
    q, k, v = tokens_apart(qkv)
    scores = q @ k.mT
    return joined((scores - scores.amax(dim=-1, keepdim=True)).softmax(dim=-1) @ v)


def biased(qkv):
    """Something is added to the scores."""
    q, k, v = tokens_apart(qkv)
    distance = torch.arange(24.0)[:, None] - torch.arange(24.0)
    return joined((q @ k.mT - 0.1 * distance.abs()).softmax(dim=-1) @ v)


def twice_read(qkv):
    """The weights are read by something else too."""
    q, k, v = tokens_apart(qkv)
    weights = (q @ k.mT).softmax(dim=-1)
    return joined(weights @ v + weights.mean(dim=-1, keepdim=True))


FUSED = {
    "guided diffusion, legacy": guided(legacy=True),
    "guided diffusion": guided(legacy=False),
    "one head": attention(one_head),
    "latent diffusion": attention(crossed),
    "baddbmm": attention(summed_batch),
    "pixels of heads": attention(pixels_of_heads, 1),
    "transformer": attention(transformed, 1),
    "normalised queries and keys": attention(normed, 1),
}
APART = {
    "linear": attention(linear, 1),
    "centred scores": attention(centred, 1),
    "biased scores": attention(biased, 1),
    "weights read twice": attention(twice_read, 1),
}


def check(case, plan):
    """Compare a plan by its definition, and on the kernels of the best level here, with torch."""
    assert error(run_reference(plan, case.inputs, len(case.expected)), case.expected) < 2e-6
    got = evaluate(plan, case.inputs, len(case.expected), {}, LEVELS[-1])
    assert error(got.reshape(case.expected.shape), case.expected) < 1e-5


@pytest.mark.parametrize("name", FUSED)
def test_attention_that_is_written_out_becomes_one_node(read, name):
    case = read(FUSED[name])
    check(case, assign_memory(case.graph))
    plan = make_plan(case.program, case.network)
    check(case, plan)
    kinds = [type(node) for node in plan.nodes]
    assert kinds.count(Attention) == 1
    assert not {Product, Softmax} & set(kinds)


@pytest.mark.parametrize("name", APART)
def test_what_is_no_attention_stays_apart(read, name):
    case = read(APART[name])
    plan = make_plan(case.program, case.network)
    check(case, plan)
    kinds = [type(node) for node in plan.nodes]
    assert Attention not in kinds
    assert kinds.count(Product) == 2


def test_attention_has_the_plan_of_the_operator(read):
    def scaled(qkv):
        return joined(functional.scaled_dot_product_attention(*tokens_apart(qkv)))

    plans = [read(attention(function, 1)) for function in (transformed, scaled)]
    plans = [make_plan(case.program, case.network).nodes for case in plans]
    views = [[(type(node), node.y.shape, node.y.strides) for node in nodes] for nodes in plans]
    assert views[0] == views[1]
    written, given = (
        next(node for node in nodes if isinstance(node, Attention)) for nodes in plans
    )
    assert (written.q, written.k, written.v) == (given.q, given.k, given.v)
    assert written.scale == pytest.approx(given.scale, rel=1e-12)


WRITTEN_OUT = {
    "softmax": lambda x: x.softmax(1) + x.softmax(2) + functional.softmax(x, -1, torch.float32),
    "channels": lambda x: (x - x.mean(1, keepdim=True)) * (x.var(1, True, True) + 1e-3).rsqrt(),
    "pixels": lambda x: x * torch.var_mean(x, (2, 3), correction=0, keepdim=True)[0],
    "image": lambda x: x - x.mean((1, 2, 3), keepdim=True) + x.std((-3, -1), keepdim=True),
    "moments": lambda x: x * torch.std_mean(x, 3, keepdim=True)[1] + x.std(2, False, True),
    "lengths": lambda x: functional.normalize(x, dim=1) + x.norm(p=1, dim=3, keepdim=True),
    "extremes": lambda x: (x - x.amin((1, 2), True)) / (x.amax(3).unsqueeze(3) + 9),
    "greatest": lambda x: x / x.norm(p=math.inf, dim=(2, 3), keepdim=True),
    "pooled": lambda x: x * x.sum((2, 3)).sigmoid()[:, :, None, None],
    "column": lambda x: torch.einsum("bchw,bc->bhw", x, x.mean((2, 3))).unsqueeze(1) + x,
    "inner": lambda x: torch.einsum("bchw,bchw->bc", x, x)[:, :, None, None] * x,
    "reordered": lambda x: torch.einsum("bchw,bdhv->bvcdw", x, x).sum((1, 3)).unsqueeze(2) + x,
    "one of heads": lambda x: (x[:, :1] @ x.mT) @ x,
    "summand": lambda x: x + torch.baddbmm(x[:, 0] @ x[:, 0].mT, x[:, 1], x[:, 2].mT, beta=0.5)[
        :, None, :, :4
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_an_expression_is_what_torch_computes(read, name):
    case = read(layer(lambda m, x: WRITTEN_OUT[name](x)))
    check(case, assign_memory(case.graph))
    check(case, make_plan(case.program, case.network))


def test_means_of_images_whose_channels_lie_together_are_not_copied(read):
    case = read(layer(lambda m, x: m[0](x).mean((2, 3)), lambda: nn.Conv2d(3, 5, 1)))
    nodes = make_plan(case.program, case.network).nodes
    assert sum(isinstance(node, Reduce) for node in nodes) == 1
    assert sum(isinstance(node, Map) and not node.program for node in nodes) == 1  # of the input


REFUSED = {
    "mean of all": (lambda x: x * x.mean((0, 1, 2, 3)), "along the batch"),
    "softmax of the batch": (lambda x: x.softmax(0), "along the batch"),
    "other type": (lambda x: x.softmax(1, torch.float64).float(), "torch.float64"),
    "order of a norm": (lambda x: x.norm(p=3, dim=1, keepdim=True) * x, "order 3"),
    "sum over the batch": (
        lambda x: x * torch.einsum("bchw,dchw->bd", x, x)[:, :1, None, None], "sums over it"
    ),
    "moved batch": (
        lambda x: x + torch.einsum("bchw,bchv->cbwv", x, x).sum((0, 2, 3)).sum(), "moves the batch"
    ),
    "sum of one alone": (
        lambda x: torch.einsum("bchw,bcuv->bcwv", x, x), "h is summed in one operand alone"
    ),
    "diagonal": (lambda x: torch.einsum("bchw,bcvv->bchv", x, x[..., :4, :4]), "a diagonal"),
    "three operands": (lambda x: torch.einsum("bchw,bchw,bchw->bchw", x, x, x), "einsum"),
    "product along the batch": (
        lambda x: x * (x[:, 0, 0] @ x[:, 0, 0].mT).sum(1)[:, None, None, None], "batch"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_kernel_is_refused_by_name(read, name):
    function, reason = REFUSED[name]
    with pytest.raises(Unavailable, match=reason):
        read(layer(lambda m, x: function(x)))

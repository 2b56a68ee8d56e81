"""The noise and its arithmetic as ONNX operators: the bits of the kernels."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from fastdiff.exporting import arithmetic, noise
from fastdiff.exporting.graph import FLOAT, INT64, Builder
from fastdiff.kernels.noise import TAG_INITIAL, TAG_STEP, normal
from fastdiff.kernels.noise import reference as noise_reference
from fastdiff.kernels.step.reference import exponential

LEVELS = {
    "optimized": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "plain": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
SPECIAL_SEEDS = [0, 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
SQRT_HALF = np.float32(0.5**0.5)


def session(write, inputs, level="optimized", builder=None):
    """A session on the graph that `write` makes of the inputs, {name: (type, rank)}."""
    b = builder or Builder()
    results = write(b, *(b.value(name) for name in inputs))
    for i, value in enumerate(results):
        b.rename(value, f"result_{i}")
    infos = [
        helper.make_tensor_value_info(name, kind, [f"{name}_{axis}" for axis in range(rank)])
        for name, (kind, rank) in inputs.items()
    ]
    outputs = [onnx.ValueInfoProto(name=f"result_{i}") for i in range(len(results))]
    graph = helper.make_graph(b.nodes, "test", infos, outputs, b.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        onnx.shape_inference.infer_shapes(model).SerializeToString(), options
    )


def noise_session(tag, count, level="optimized"):
    def write(b, seed, draw):
        return [noise.normal(b, noise.round_keys(seed), draw, tag, count)]

    return session(write, {"seed": (INT64, 1), "draw": (INT64, 0)}, level)


def run(session, seeds, draw):
    seed = np.array(seeds, np.uint64).view(np.int64)
    return session.run(None, {"seed": seed, "draw": np.array(draw)})[0]


def same_bits(a, b):
    assert a.shape == b.shape
    np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("tag", [TAG_INITIAL, TAG_STEP])
@pytest.mark.parametrize("count", [1, 4, 63, 122, 12_001])
def test_noise_has_the_bits_of_the_kernels(count, tag, level):
    s = noise_session(tag, count, level)
    seeds = [
        *SPECIAL_SEEDS,
        *map(int, np.random.default_rng(count).integers(2**64, size=5, dtype=np.uint64)),
    ]
    for draw in (0, 1, 999, 2**31, 2**32 - 1):
        expected = np.stack([normal(seed, 0, draw, tag, count=count) for seed in seeds])
        same_bits(run(s, seeds, draw), expected)


HYPOTHESIS_SESSION = noise_session(TAG_STEP, 37)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    st.integers(0, 2**32 - 1),
)
def test_noise_of_any_seed_and_draw_has_the_bits_of_the_kernels(seeds, draw):
    expected = np.stack([normal(seed, 0, draw, TAG_STEP, count=37) for seed in seeds])
    same_bits(run(HYPOTHESIS_SESSION, seeds, draw), expected)


def words_of_interest():
    """Ends, powers of two, and both sides of each threshold of the logarithm."""
    edges = [round(2 * float(SQRT_HALF) * 2.0**k) for k in range(32)]
    powers = [1 << k for k in range(32)]
    near = {w + d for w in (*edges, *powers, 2**32) for d in range(-70, 71)}
    random = np.random.default_rng(0).integers(2**32, size=200_000)
    words = [w for w in sorted(near) if 0 <= w < 2**32]
    return np.concatenate([np.array(words, np.int64), random.astype(np.int64)])


def test_logarithm_and_circle_have_the_bits_of_the_kernels():
    words = words_of_interest()
    s = session(lambda b, w: [noise.minus_two_log(w), *noise.unit_circle(w)], {"words": (INT64, 1)})
    log, first, second = s.run(None, {"words": words})
    same_bits(log, noise_reference.minus_two_log(words.astype(np.uint32)))
    expected = noise_reference.unit_circle(words.astype(np.uint32))
    same_bits(first, expected[0])
    same_bits(second, expected[1])


class RoughLogarithm(Builder):
    """A backend whose logarithm is off by more than any backend's."""

    error = 0.0

    def op(self, kind, *inputs, **attributes):
        value = super().op(kind, *inputs, **attributes)
        return value + self.error if kind == "Log" else value


@pytest.mark.parametrize("error", [0.0, 1e-3, -1e-3, 0.3, -0.3])
def test_exponent_split_is_exact_whatever_the_logarithm(error):
    thresholds = SQRT_HALF * np.float32(2) ** np.arange(-1, 33, dtype=np.float32)
    powers = np.float32(2) ** np.arange(-1, 32, dtype=np.float32)
    x = np.concatenate([thresholds, powers])
    x = np.concatenate([x, np.nextafter(x, np.float32(0)), np.nextafter(x, np.float32(np.inf))])
    builder = RoughLogarithm()
    builder.error = error
    n, m = session(
        lambda b, x: arithmetic.split_exponent(x), {"x": (FLOAT, 1)}, builder=builder
    ).run(None, {"x": x})
    assert ((m >= SQRT_HALF) & (m < 2 * SQRT_HALF)).all()
    same_bits(np.ldexp(m, n.astype(np.int32)), x)


def test_exponential_has_the_bits_of_the_kernels():
    x = np.concatenate([
        np.linspace(-90, 90, 200_001),
        [0.0, -0.0, 1e-45, -1e-45, 1e-30, -87, 88, -1e30, 1e30, np.inf, -np.inf],
    ]).astype(np.float32)  # fmt: skip
    for level in LEVELS:
        s = session(lambda b, x: [arithmetic.exponential(x)], {"x": (FLOAT, 1)}, level)
        same_bits(s.run(None, {"x": x})[0], exponential(x))


def test_square_root_is_correctly_rounded():
    x = np.random.default_rng(0).uniform(0, 45, 200_000).astype(np.float32)
    s = session(lambda b, x: [arithmetic.square_root(x)], {"x": (FLOAT, 1)})
    same_bits(s.run(None, {"x": x})[0], np.sqrt(x.astype(np.float64)).astype(np.float32))


def test_constants_are_stored_once():
    b = Builder()
    names = {b.constant(value).name for value in (1, np.int64(1), np.array(1))}
    assert len(names) == 1
    others = {b.constant(value).name for value in (1.0, 0.0, -0.0, np.array([1]), np.float64(1))}
    assert len(others) == 5
    assert len(b.initializers) == 6

"""Eight-bit integers in place of float32."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planned_networks import error

from fastdiff import _native
from fastdiff.native import Algorithm, bind, make_plan, pack
from fastdiff.native.running.quantizing import MOST_TERMS, quantize


def drawn(seed, spread=1.0, channels=40):
    """Weights, and ranges of inputs of channels whose sizes differ by powers of `spread`."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((24, channels, 3, 3)).astype(np.float32)
    high = spread ** rng.uniform(-1, 1, channels)
    return weights, np.stack([-high * rng.uniform(0, 1), high]).astype(np.float32)


@given(st.integers(0, 99), st.floats(1, 30))
def test_integers_stand_for_the_weights_and_take_the_inputs(seed, spread):
    weights, ranges = drawn(seed, spread)

    q = quantize(weights, ranges)

    step = q.outputs[:, None, None, None] * q.inputs[:, None, None]
    assert (np.abs(q.weights * step - weights) <= 0.5001 * step).all()
    assert np.abs(q.weights).max() == 127
    ends = ranges * q.inputs + q.zero
    assert ends.min() == pytest.approx(0, abs=0.51)
    assert ends.max() == pytest.approx(255, abs=0.51)
    np.testing.assert_array_equal(q.zeros, q.zero * q.weights.astype(int).sum((1, 2, 3)))


def test_a_channel_of_large_inputs_leaves_the_others_their_precision():
    weights, ranges = drawn(0)
    ranges[:, 3] = -100, 100
    x = np.random.default_rng(1).uniform(*ranges, (1000, 40))
    product = x @ weights[:, :, 0, 0].T

    q = quantize(weights[:, :, :1, :1], ranges)
    integers = np.clip(np.rint(x * q.inputs + q.zero), 0, 255) - q.zero
    got = integers @ q.weights[:, :, 0, 0].T * q.outputs

    one_scale = np.rint(x * 1.27) / 1.27 @ weights[:, :, 0, 0].T
    without_outlier = np.linalg.norm(product - x[:, 3:4] * weights[:, 3, 0, 0])
    assert np.linalg.norm(got - product) < 0.15 * without_outlier
    assert np.linalg.norm(got - product) < 0.5 * np.linalg.norm(one_scale - product)


def test_what_is_zero_in_the_samples_need_not_stay_so():
    weights, ranges = drawn(2)
    weights[5], weights[:, 7], ranges[:, [7, 9]] = 0, 0, 0

    q = quantize(weights, ranges)

    for array in (q.inputs, q.outputs):
        assert np.isfinite(array).all()
        assert (array > 0).all()
    assert not q.weights[5].any()
    assert not q.weights[:, 7].any()
    assert q.weights[:, 9].any()
    nothing = quantize(np.zeros_like(weights), np.zeros_like(ranges))
    assert np.isfinite(nothing.inputs).all()


def test_what_never_falls_far_below_zero_has_nearly_all_steps():
    weights, ranges = drawn(3)
    ranges[0] = -0.28 * ranges[1]
    assert quantize(weights, ranges).zero == np.rint(255 * 0.28 / 1.28)
    ranges[0] = 0
    assert quantize(weights, ranges).zero == 0


def test_so_many_products_fit_in_32_bits():
    assert MOST_TERMS * 255 * 127 < 2**31 <= (MOST_TERMS + 1) * 255 * 127


@pytest.mark.parametrize("level", [n for n, why in _native.network_levels().items() if why is None])
@pytest.mark.parametrize("name", ["ddpm", "dit"])
def test_a_network_of_integers_is_near_the_exact_one_and_bits_do_not_depend_on_the_batch(
    model, name, level
):
    case = model(name)
    plan = make_plan(case.program, case.network)
    rows = len(case.expected)
    held = {key: np.ascontiguousarray(value) for key, value in case.inputs.items()}
    held["output"] = np.full((rows, plan.buffers["output"].size), np.nan, np.float32)
    ranges = {n.name: np.zeros((2, n.x.shape[-1]), np.float32) for n in plan.convolutions}

    def evaluate(count, packed, choices, observed=None):
        arena = np.full(count * plan.arena_floats + 16, np.nan, np.float32)
        start, native = arena.ctypes.data, _native.NetworkPlan(level)
        addresses = {key: array.ctypes.data for key, array in held.items()}
        bind(plan, native, count, addresses, start + -start % 64, packed, choices, observed)
        native.run(2)
        return held["output"][:count].copy()

    exact = evaluate(rows, pack(plan, {}, level), {}, ranges)
    assert error(exact, case.expected) < 1e-5  # observing changes nothing
    choices = {n.name: Algorithm("int8") for n in plan.convolutions}
    packed = pack(plan, choices, level, ranges=ranges)
    whole = evaluate(rows, packed, choices)
    assert 1e-5 < error(whole, case.expected) < 0.1
    np.testing.assert_array_equal(evaluate(1, packed, choices)[0], whole[0])

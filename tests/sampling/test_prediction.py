import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling import (
    PREDICTION_TYPES,
    convert_prediction,
    denoised_coefficients,
    epsilon_to_score,
    score_to_epsilon,
)

KINDS = (*PREDICTION_TYPES, "score")


def value_of(kind, X, N, alpha, sigma):
    """What a perfect network of this kind says, from the definitions in the papers."""
    return {
        "epsilon": N,
        "sample": X,
        "v_prediction": alpha * N - sigma * X,
        "score": -N / sigma,
        "flow_prediction": N - X,
        "edm": sigma * X - alpha * N,
    }[kind]


@given(
    angle=st.floats(0.01, math.pi / 2 - 0.01),
    source=st.sampled_from(KINDS),
    target=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_kind_converts_into_every_other(angle, source, target, seed):
    X, N = np.random.default_rng(seed).standard_normal((2, 3, 5))
    alpha, sigma = math.cos(angle), math.sin(angle)
    got = convert_prediction(
        value_of(source, X, N, alpha, sigma),
        alpha * X + sigma * N,
        alpha,
        sigma,
        source=source,
        target=target,
    )
    np.testing.assert_allclose(got, value_of(target, X, N, alpha, sigma), rtol=1e-9, atol=1e-9)


def test_levels_of_rows_differ_and_torch_gives_the_same():
    rng = np.random.default_rng(0)
    X, N = rng.standard_normal((2, 3, 2, 7))
    alpha = np.array([0.9, 0.5, 0.1])
    sigma = np.sqrt(1 - alpha**2)
    a, s = alpha[:, None, None], sigma[:, None, None]
    x, v = a * X + s * N, a * N - s * X
    options = {"source": "v_prediction", "target": "sample"}
    np.testing.assert_allclose(convert_prediction(v, x, alpha, sigma, **options), X, atol=1e-14)
    tensors = (torch.from_numpy(u) for u in (v, x, alpha, sigma))
    np.testing.assert_allclose(convert_prediction(*tensors, **options).numpy(), X, atol=1e-14)


def test_denoised_coefficients_hold_in_exploding_coordinates():
    ratio = 3.7
    norm = math.hypot(1, ratio)
    X, N = 0.3, -1.2
    y = X + ratio * N
    for kind in PREDICTION_TYPES:
        p, q = denoised_coefficients(kind, 1.0, ratio)
        assert p * y + q * value_of(kind, X, N, 1 / norm, ratio / norm) == pytest.approx(X)


def test_pure_noise_refuses_epsilon_and_serves_the_others():
    with pytest.raises(InvalidArgument, match=r"zero terminal SNR.*v_prediction"):
        denoised_coefficients("epsilon", np.array([0.5, 0.0]), np.array([0.8, 1.0]))
    assert denoised_coefficients("v_prediction", 0.0, 1.0) == (0.0, -1.0)
    assert denoised_coefficients("sample", 0.0, 1.0) == (0.0, 1.0)


def test_clean_data_refuses_what_it_cannot_know():
    assert denoised_coefficients("epsilon", 1.0, 0.0) == (1.0, 0.0)
    with pytest.raises(InvalidArgument, match="sigma = 0"):
        convert_prediction(1.0, 1.0, 1.0, 0.0, source="sample", target="epsilon")
    with pytest.raises(InvalidArgument, match="sigma = 0"):
        convert_prediction(1.0, 1.0, 1.0, 0.0, source="epsilon", target="score")
    with pytest.raises(UnknownName, match=r"'x0'; known: edm, epsilon, flow_prediction, "):
        denoised_coefficients("x0", 1.0, 0.5)


def test_epsilon_and_score_are_one_up_to_the_level():
    rng = np.random.default_rng(1)
    epsilon, sigma = rng.standard_normal((3, 2, 7)), np.array([0.1, 1.0, 4.0])
    score = epsilon_to_score(epsilon, sigma)
    np.testing.assert_allclose(score[2], -epsilon[2] / 4.0)
    np.testing.assert_allclose(score_to_epsilon(score, sigma), epsilon)
    as_torch = epsilon_to_score(torch.from_numpy(epsilon), torch.from_numpy(sigma))
    np.testing.assert_allclose(as_torch.numpy(), score)
    # The score of N(alpha mean, spread) at x, from its definition.
    x, alpha, level, mean, variance = 0.7, 0.8, 0.6, 0.3, 0.25
    spread = alpha**2 * variance + level**2
    D = (mean * level**2 + alpha * variance * x) / spread
    noise = (x - alpha * D) / level
    assert epsilon_to_score(noise, level) == pytest.approx(-(x - alpha * mean) / spread)
    with pytest.raises(InvalidArgument, match="infinite at sigma = 0"):
        epsilon_to_score(epsilon, np.array([0.1, 0.0, 4.0]))


def test_edm_coefficients_are_those_of_the_paper():
    """Karras et al., Table 1: c_skip and c_out."""
    data, sigma = 0.5, 3.0
    p, q = denoised_coefficients("edm", 1.0, sigma, data)
    assert p == pytest.approx(data**2 / (sigma**2 + data**2))
    assert q == pytest.approx(sigma * data / np.hypot(sigma, data))

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets

from fastdiff.models import NULL_CLASS, SAMPLE_SHAPE, DigitsUNet, load_digits
from fastdiff.models.digits import timestep_embedding


@pytest.fixture(scope="module")
def model():
    return load_digits()


def wave(n):
    return torch.sin(torch.arange(n * 64.0)).view(n, *SAMPLE_SHAPE)


@torch.no_grad()
def loss_on_real_digits(model, t, relabel=lambda labels: labels):
    """E||epsilon - epsilon_theta||^2 over 300 real digits at time t, with fixed noise."""
    data = datasets.load_digits()
    images = torch.from_numpy(data.images[:300, None] / 8.0 - 1.0).float()
    labels = relabel(torch.from_numpy(data.target[:300]))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    betas = np.linspace(1e-4, 0.02, 1000)
    abar = float(np.prod(1.0 - betas[: t + 1]))
    noisy = abar**0.5 * images + (1.0 - abar) ** 0.5 * noise
    epsilon = model(noisy, torch.full((300,), float(t)), labels)
    return float((epsilon - noise).square().mean())


@given(st.floats(0, 999, width=32), st.sampled_from([2, 64, 126]))
def test_timestep_embedding_matches_float64(t, dim):
    angles = t * 10_000.0 ** (-2.0 * np.arange(dim // 2) / dim)
    expected = np.concatenate([np.cos(angles), np.sin(angles)])
    got = timestep_embedding(torch.tensor([t]), dim)
    assert got.dtype == torch.float32
    # Float32 holds an angle near 999 to 3e-5, and its frequency to a few ulp more.
    np.testing.assert_allclose(got[0].numpy(), expected, atol=4e-4)


@torch.no_grad()
def test_forward_known_answer(model):
    epsilon = model(wave(3), torch.tensor([0.0, 250.5, 999.0]), torch.tensor([3, 7, NULL_CLASS]))
    expected = torch.tensor(
        [
            [0.16021, -0.13849, -0.70892, -0.02212],
            [-0.31958, -1.08391, -1.35566, 0.22307],
            [-0.95892, -0.36023, 0.56588, 0.97749],
        ]
    )
    torch.testing.assert_close(epsilon[:, 0, 4, 2:6], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("t", "bound"), [(10, 0.6), (100, 0.25), (400, 0.05), (800, 0.01)])
def test_loss_on_real_digits_is_far_below_that_of_an_untrained_model(model, t, bound):
    torch.manual_seed(0)
    loss = loss_on_real_digits(model, t)
    assert loss < bound
    assert loss < 0.7 * loss_on_real_digits(DigitsUNet().eval(), t)


def test_label_steers_and_null_class_lies_between_right_and_wrong(model):
    right = loss_on_real_digits(model, 500)
    null = loss_on_real_digits(model, 500, lambda y: torch.full_like(y, NULL_CLASS))
    wrong = loss_on_real_digits(model, 500, lambda y: (y + 1) % 10)
    assert 1.1 * right < null
    assert 1.1 * null < wrong


@torch.no_grad()
def test_rows_of_a_batch_are_independent(model):
    x, t = wave(7), torch.tensor([0.0, 3.0, 77.25, 500.0, 640.0, 998.0, 999.0])
    labels = torch.tensor([NULL_CLASS, 9, 0, 3, 3, 1, 8])
    alone = [model(x[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(7)]
    torch.testing.assert_close(model(x, t, labels), torch.cat(alone), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_bfloat16_stays_close_to_float32(model):
    # Odd times above 256 are not bfloat16 numbers: rounding the time would show.
    x, t = wave(5), torch.tensor([1.0, 333.0, 517.0, 901.0, 997.0])
    labels = torch.tensor([0, 2, 5, 9, NULL_CLASS])
    expected = model(x, t, labels)
    got = load_digits().bfloat16()(x.bfloat16(), t, labels)
    assert got.dtype == torch.bfloat16
    error = (got.float() - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert error.max() < 0.03


@pytest.mark.slow
def test_onnx_export_matches_at_any_batch(model, tmp_path):
    batch = torch.export.Dim("batch")
    inputs = wave(2), torch.tensor([1.0, 2.0]), torch.tensor([1, NULL_CLASS])
    with warnings.catch_warnings():
        # The exporter itself uses what torch has deprecated.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, inputs, dynamo=True, dynamic_shapes=({0: batch},) * 3, verbose=False
        )
    program.save(tmp_path / "digits.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "digits.onnx", providers=["CPUExecutionProvider"]
    )
    names = [node.name for node in session.get_inputs()]
    for n in (1, 5, 63):
        x, t, labels = wave(n), torch.linspace(0, 999, n), torch.arange(n) % 11
        with torch.no_grad():
            expected = model(x, t, labels).numpy()
        feed = dict(zip(names, (x.numpy(), t.numpy(), labels.numpy()), strict=True))
        np.testing.assert_allclose(session.run(None, feed)[0], expected, atol=2e-5)

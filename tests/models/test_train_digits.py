import argparse
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastdiff.models import digits_schedule_config, load_digits

SCRIPT = Path(__file__).parents[2] / "examples" / "train_digits.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_digits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipe(out, **changes):
    defaults = {
        "out": out,
        "steps": 3,
        "seed": 0,
        "batch_size": 9,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "dropout": 0.1,
        "label_dropout": 0.15,
        "ema_decay": 0.9,
        "save_every": 10,
    }
    return argparse.Namespace(**{**defaults, **changes})


def test_training_is_reproducible_and_its_file_loads(script, tmp_path, monkeypatch):
    images, labels, *held_out = script.real_digits()
    few = images, labels, *(part[:20] for part in held_out)  # judging takes longer than training
    monkeypatch.setattr(script, "real_digits", lambda: few)
    first, again, other = (tmp_path / f"{name}.safetensors" for name in "abc")
    script.train(recipe(first))
    script.train(recipe(again))
    script.train(recipe(other, seed=1))
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()
    assert load_digits(first).conv_out.weight.abs().max() > 0
    assert digits_schedule_config(first) == script.SCHEDULE
    assert not list(tmp_path.glob("*.partial"))


def test_schedule_matches_its_closed_form(script):
    expected = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(script.alphas_cumprod().numpy(), expected, rtol=1e-6)


def test_split_keeps_every_digit_once(script):
    train_images, train_labels, held_out_images, held_out_labels = script.real_digits()
    assert len(train_images) == len(train_labels) == 1437
    assert len(held_out_images) == len(held_out_labels) == 360
    assert train_images.min() == -1.0
    assert train_images.max() == 1.0
    counts = torch.bincount(held_out_labels)
    assert counts.min() >= 35
    assert counts.max() <= 37
    # No held-out image is also a training image.
    assert torch.cdist(held_out_images.flatten(1), train_images.flatten(1)).min() > 0.1


def test_loss_of_a_model_that_knows_the_image_is_zero(script):
    abar = script.alphas_cumprod()
    image = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(17, 1, 1, 1)

    class Oracle(nn.Module):
        def forward(self, x, t, class_labels):
            a = abar[t.long()][:, None, None, None]
            return (x - a.sqrt() * image) / (1 - a).sqrt()

    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(17, dtype=torch.int64)
    assert script.denoising_loss(Oracle(), image, labels, abar, generator) < 1e-9


def test_ema_follows_its_recursion(script):
    average, model = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(average.weight, 0.0)
    nn.init.constant_(model.weight, 1.0)
    script.update_ema(average, model, step=10**6, decay=0.9)
    script.update_ema(average, model, step=10**6, decay=0.9)
    assert average.weight.item() == pytest.approx(1 - 0.9**2)
    # Early on the memory is short: (1 + 1) / (10 + 1) of the old value stays.
    script.update_ema(average, model, step=1, decay=0.9)
    assert average.weight.item() == pytest.approx(1 - 0.9**2 * 2 / 11)

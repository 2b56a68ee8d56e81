import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.svm import SVC

import fastdiff


@pytest.fixture(scope="module")
def real():
    return datasets.load_digits()


@pytest.fixture(scope="module")
def judge(real):
    return SVC(gamma=0.001).fit(real.data, real.target)


@pytest.fixture(scope="module")
def sampler():
    return fastdiff.compile("digits")


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "steps"), [("ddim", 50), ("dpmpp_2m", 15)])
def test_guided_samples_are_the_digits_asked_for(sampler, judge, real, solver, steps):
    labels = np.tile(np.arange(10), 10)
    images = sampler.sample(
        class_labels=labels.tolist(), solver=solver, steps=steps, guidance_scale=1.5, seed=0
    )
    grey = (images.clamp(-1.0, 1.0).flatten(1) + 1.0) * 8.0
    assert (judge.predict(grey.numpy()) == labels).mean() >= 0.93
    # Not one picture per class: images of a digit differ about as much as real ones do.
    spread = np.mean([grey[labels == c].std(dim=0).mean() for c in range(10)])
    real_spread = np.mean([real.data[real.target == c].std(axis=0).mean() for c in range(10)])
    assert spread > 0.7 * real_spread
    # Not copies: no image is one that it was trained on.
    nearest = torch.cdist(grey.double(), torch.from_numpy(real.data)).min()
    assert nearest > 3.0

"""Every pipeline, saved, loaded and compiled once."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

import fastdiff

QUICK = {"backend": "eager", "precision": "float32", "max_batch": 2, "tune": 0.01, "cache": False}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Return ``compiled(name)``: a pipeline of diffusers, and the same compiled from its folder."""
    import pipelines  # needs diffusers, as the modules here do

    kept = {}

    def get(name):
        if name not in kept:
            pipe = getattr(pipelines, name)()
            folder = tmp_path_factory.mktemp(name)
            pipe.save_pretrained(folder)
            kept[name] = pipe, fastdiff.compile(folder, **QUICK)
            for made in kept[name]:
                made.set_progress_bar_config(disable=True)
        pipe, fast = kept[name]
        fast.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        return pipe, fast

    return get


@pytest.fixture(scope="session")
def picture():
    """A picture of 64 x 64 with something in it."""
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return PIL.Image.fromarray(blocks).resize((64, 64), PIL.Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def region():
    """A mask that has a part of the picture painted anew."""
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 8:40] = 255
    return PIL.Image.fromarray(mask)

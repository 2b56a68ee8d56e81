"""Pixels, files, and the store that serves them by URL."""

import io

import numpy as np
import torch
from PIL import Image

from fastdiff.serving.images import ImageStore, encode, to_pixels


def test_the_store_forgets_the_oldest_and_the_expired():
    now = 0.0
    store = ImageStore(max_bytes=10, seconds=60, clock=lambda: now)
    first, second = store.put(b"12345", "png"), store.put(b"67890", "png")
    assert store.get(first).data == b"12345"

    third = store.put(b"x", "webp")
    assert (store.get(first), store.get(second).data, store.size_bytes) == (None, b"67890", 6)

    now = 60.0
    assert store.get(third) is None
    store.put(b"y", "png")
    assert (len(store), store.size_bytes) == (1, 1)


def test_pixels_are_rounded_and_clipped():
    samples = np.array([-2, -1, -0.99, 0, 0.99, 1, 2], np.float32).reshape(1, 1, 1, 7)

    pixels = to_pixels(torch.from_numpy(samples))

    assert pixels.reshape(-1).tolist() == [0, 0, 1, 128, 254, 255, 255]
    decoded = np.asarray(Image.open(io.BytesIO(encode(pixels[0], "png"))))
    assert decoded.tolist() == pixels[0, :, :, 0].tolist()

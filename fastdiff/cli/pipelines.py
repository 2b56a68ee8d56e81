"""What ``fastdiff sample`` does with a pipeline of diffusers."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastdiff.errors import InvalidArgument

_NAMES = {"steps": "num_inference_steps", "mask": "mask_image"}
_COUNTS = ("num_images_per_prompt", "batch_size")


def sample(
    pipe: Any, n: int, seed: int | None, labels: list[int] | None, options: dict[str, Any]
) -> Tensor:
    """Call a compiled pipeline with the options of the command line.

    Parameters
    ----------
    pipe : CompiledPipeline
    n : int
        Images (of each label).
    seed : int or None
        The image number i is drawn by a generator of seed + i.
    labels : list of int or None
    options : dict
        The other options, None where not given; `image` and `mask` are paths.

    Returns
    -------
    Tensor
        (n, C, H, W) float32 in [-1, 1].

    Raises
    ------
    InvalidArgument
        The pipeline does not take an option.
    """
    takes = inspect.signature(pipe).parameters
    given = {_NAMES.get(name, name): v for name, v in options.items() if v is not None}
    for name in ("image", "mask_image"):
        if name in given:
            given[name] = Image.open(given[name]).convert("RGB" if name == "image" else "L")
    total = n
    if labels is not None:
        given["class_labels"] = [label for label in labels for _ in range(n)]
        total = len(given["class_labels"])
    else:
        given[next((name for name in _COUNTS if name in takes), "batch_size")] = n
    if seed is not None:
        given["generator"] = [torch.Generator().manual_seed(seed + i) for i in range(total)]
    for name in given:
        if name not in takes:
            kind, known = type(pipe.pipeline).__name__, ", ".join(takes)
            raise InvalidArgument(f"{name} is not an argument of {kind}; it takes {known}")
    pictures = pipe(**given, output_type="np").images
    return torch.from_numpy(np.asarray(pictures, np.float32)).permute(0, 3, 1, 2) * 2 - 1

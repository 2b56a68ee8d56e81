"""Denoisers of the diffusers library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdiff.errors import InvalidArgument, Unavailable, WeightsError
from fastdiff.exporting import Conditioning, Network


def from_diffusers(model: nn.Module) -> Network | None:
    """Describe a diffusers ``UNet2DModel``; None for anything else.

    The shape comes from the model's config. A model with ``num_class_embeds`` takes
    ``class_labels``; diffusers keeps no word on which class, if any, is the null class, so that is
    for the caller to say.

    Raises
    ------
    InvalidArgument
        The config leaves the sample size open, or has a class embedding of another kind.
    """
    if type(model).__module__.split(".")[0] != "diffusers":
        return None
    if type(model).__name__ != "UNet2DModel":
        raise InvalidArgument(
            f"expected a UNet2DModel from diffusers, got {type(model).__name__}; any nn.Module "
            "called as model(x, t, **conditioning) compiles with sample_shape="
        )
    config: Any = model.config
    size = config.sample_size
    if size is None:
        raise InvalidArgument("this UNet2DModel's config has no sample_size; pass sample_shape=")
    height, width = (size, size) if isinstance(size, int) else size
    conditioning = {}
    if config.num_class_embeds is not None:
        conditioning["class_labels"] = Conditioning(num_classes=config.num_class_embeds)
    elif config.class_embed_type is not None:
        raise InvalidArgument(
            f"class_embed_type={config.class_embed_type!r} is not supported; "
            "expected num_class_embeds"
        )
    return Network(
        module=_UNet2D(model, tuple(conditioning)),
        sample_shape=(config.in_channels, height, width),
        conditioning=conditioning,
        name="UNet2DModel",
    )


def load_diffusers(folder: Path) -> tuple[nn.Module, Path | None]:
    """Load the U-Net of a folder in the diffusers layout.

    Parameters
    ----------
    folder : Path
        Holds the config.json of a ``UNet2DModel`` and its safetensors, or is a pipeline's folder
        with ``unet/`` and ``scheduler/`` in it. Pickled weights are refused.

    Returns
    -------
    model : nn.Module
    scheduler_config : Path or None
        Path of the scheduler_config.json beside it, if there is one.

    Raises
    ------
    InvalidArgument
        There is no UNet2DModel in the folder.
    WeightsError
        Its weights are missing, corrupt or not safetensors.
    Unavailable
        diffusers is not installed.
    """
    root = folder / "unet" if (folder / "unet").is_dir() else folder
    if not (root / "config.json").is_file():
        raise InvalidArgument(f"{folder} holds no config.json of a UNet2DModel")
    try:
        from diffusers import UNet2DModel as Model
    except ImportError as error:
        raise Unavailable(
            "loading this folder needs diffusers: pip install 'fastdiff-runtime[diffusers]'"
        ) from error
    load: Any = Model.from_pretrained
    try:
        model: nn.Module = load(root, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{root} cannot be loaded: {error}") from error
    config = folder / "scheduler" / "scheduler_config.json"
    return model, config if config.is_file() else None


class _UNet2D(nn.Module):
    """UNet2DModel as ``model(x, t, class_labels) -> tensor``."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        output: tuple[Tensor, ...] = self.model(x, t, class_labels=class_labels, return_dict=False)
        return torch.as_tensor(output[0])

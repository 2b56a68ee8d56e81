"""What a pipeline is to `fastdiff.compile`, read from its object or its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastdiff.errors import InvalidArgument
from fastdiff.integrations.folders import load_pretrained
from fastdiff.integrations.pipelines.families import Family, class_of_pipeline, family_of
from fastdiff.integrations.pipelines.pipeline import CompiledPipeline
from fastdiff.integrations.schedulers import read_scheduler
from fastdiff.networks import Conditioning, Network, SampleShape, picture_shape
from fastdiff.sampler import Sampler
from fastdiff.sampling import Schedule

_LIBRARIES = ("diffusers", "transformers", "latent_diffusion", "stable_diffusion")
_MAX_INDEX_BYTES = 1 << 20


@dataclass(frozen=True)
class DescribedPipeline:
    """A pipeline, and what `fastdiff.compile` makes of its denoiser and its scheduler.

    Attributes
    ----------
    pipe : DiffusionPipeline
    family : Family
    network : Network
    schedule : Schedule
    """

    pipe: Any
    family: Family
    network: Network
    schedule: Schedule

    def around(self, sampler: Sampler) -> CompiledPipeline:
        """Put the engine of `sampler` in the place of the denoising loop."""
        return CompiledPipeline(self.pipe, self.family, sampler)


def describe_pipeline(
    pipe: Any,
    sample_shape: SampleShape | None = None,
    conditioning: Mapping[str, Conditioning] | None = None,
) -> DescribedPipeline:
    """Read what a pipeline's denoising loop does.

    Parameters
    ----------
    pipe : DiffusionPipeline or path
        One of `PIPELINE_CLASSES`, or the folder of a saved one. Weights must be safetensors;
        nothing is downloaded and no code of the folder is run.
    sample_shape : tuple of int
        (C, H, W) that the denoiser is compiled for; what its configuration says if left out.
    conditioning : mapping of str to Conditioning
        Of inputs of the denoiser, instead of what its configuration says.

    Raises
    ------
    UnknownName
        The pipeline, or its scheduler, is of a class that is not supported.
    InvalidArgument
        Its denoiser takes inputs that are not supported, or `conditioning` names one that it lacks.
    WeightsError
        Weights in the folder are missing, corrupt or not safetensors.
    Unavailable
        diffusers is not installed.
    """
    if isinstance(pipe, (str, os.PathLike)):
        pipe = load_pipeline(Path(pipe))
    family = family_of(class_of_pipeline(pipe))
    _, schedule = read_scheduler(pipe.scheduler)
    shape = None if sample_shape is None else picture_shape(type(pipe).__name__, sample_shape)
    network = family.describe(pipe, shape)
    unknown = [name for name in conditioning or () if name not in network.conditioning]
    if unknown:
        takes = ", ".join(network.conditioning) or "none"
        raise InvalidArgument(
            f"conditioning: the pipeline's denoiser has no input {unknown[0]!r}; it has: {takes}"
        )
    network = replace(
        network,
        conditioning={**network.conditioning, **(conditioning or {})},
        num_train_timesteps=schedule.num_train_timesteps,
    )
    return DescribedPipeline(pipe, family, network, schedule)


def load_pipeline(folder: Path) -> Any:
    """Load a pipeline that diffusers saved; errors are those of `describe_pipeline`."""
    return load_pretrained(_class_name(folder), folder)


def _class_name(folder: Path) -> str:
    """Return the class that a model_index.json names, after a look at its components."""
    path = folder / "model_index.json"
    if not path.is_file() or path.stat().st_size > _MAX_INDEX_BYTES:
        raise InvalidArgument(f"{folder} holds no model_index.json of a pipeline")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        name = index["_class_name"]
        if not isinstance(name, str):  # a list names a class in a file of the folder
            raise TypeError(f"_class_name is {name!r}")
        components = {key: value for key, value in index.items() if isinstance(value, list)}
        libraries = {key: str(value[0]) for key, value in components.items() if value[0]}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise InvalidArgument(f"{path} is no index of a diffusers pipeline") from error
    family_of(name)
    for key, library in libraries.items():
        if library not in _LIBRARIES:
            raise InvalidArgument(
                f"{path}: {key} is of {library!r}; expected one of {', '.join(_LIBRARIES)}, since "
                "no other code is run"
            )
    return name

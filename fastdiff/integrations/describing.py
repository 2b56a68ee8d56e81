"""What is known of a model by itself, of whatever kind it is."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn
from torch.export import ExportedProgram

from fastdiff.errors import AssumptionWarning, InvalidArgument, InvalidDtype, UnknownName
from fastdiff.integrations.architectures import MODEL_NAMES, cached_weights, named_model
from fastdiff.integrations.conditioning import with_conditioning
from fastdiff.integrations.diffusers import from_diffusers
from fastdiff.integrations.folders import load_diffusers
from fastdiff.integrations.functions import FunctionModule
from fastdiff.integrations.onnx_files import from_onnx
from fastdiff.integrations.programs import from_program
from fastdiff.integrations.schedulers import is_scheduler, schedule_of
from fastdiff.models import NULL_CLASS, NUM_CLASSES, SAMPLE_SHAPE
from fastdiff.networks import Conditioning, Network, SampleShape, unwrapped
from fastdiff.sampling import Schedule
from fastdiff.sampling.config import CONFIG_NAME

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

Model: TypeAlias = "nn.Module | ExportedProgram | Callable[..., Tensor] | str | os.PathLike[str]"
ScheduleLike: TypeAlias = "Schedule | SchedulerMixin | Mapping[str, Any] | str | os.PathLike[str]"
_Config: TypeAlias = "Mapping[str, Any] | Path"

_PICKLED = {".pt2", ".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}


def describe(
    model: Model,
    schedule: ScheduleLike | None = None,
    sample_shape: SampleShape | None = None,
    num_classes: int | None = None,
    null_class: int | None = None,
    conditioning: Mapping[str, Conditioning] | None = None,
    inputs: Mapping[str, str] | None = None,
    prediction_type: str | None = None,
) -> tuple[Network, Schedule]:
    """Return what `fastdiff.compile` makes of its arguments: the network and its noise schedule.

    Parameters and errors are those of `fastdiff.compile`.
    """
    network, config = _read(model, sample_shape, conditioning, inputs)
    if network.file is not None or isinstance(model, ExportedProgram):
        conditioning = None  # is in the description already
    network = with_conditioning(network, num_classes, null_class, conditioning)
    given = schedule if schedule is not None else config
    chosen = _schedule(given)
    if prediction_type is not None:
        chosen = replace(chosen, prediction_type=prediction_type)
    if not given:
        warnings.warn(
            f"schedule: none is given, and {network.name} does not tell its own; what is assumed "
            f"is DDPM's, betas from {chosen.beta_start:g} to {chosen.beta_end:g} in "
            f"{chosen.num_train_timesteps} steps, and that it predicts {chosen.prediction_type}; "
            "schedule=fastdiff.Schedule() says the same, without this warning",
            AssumptionWarning,
            stacklevel=3,  # whoever called compile
        )
    return replace(network, num_train_timesteps=chosen.num_train_timesteps), chosen


def _schedule(given: ScheduleLike) -> Schedule:
    """Return the schedule that a caller, or a model, gives in one of several forms."""
    if isinstance(given, Schedule):
        return given
    if is_scheduler(given):
        return schedule_of(given)
    if isinstance(given, (Mapping, str, os.PathLike)):
        return Schedule.from_config(given)
    raise InvalidDtype(
        "schedule: expected a fastdiff.Schedule, a scheduler of diffusers, its config, or the path "
        f"of a {CONFIG_NAME}, got {type(given).__name__}"
    )


def _read(
    model: Model,
    sample_shape: SampleShape | None,
    conditioning: Mapping[str, Conditioning] | None,
    inputs: Mapping[str, str] | None,
) -> tuple[Network, _Config]:
    """Return what is known of `model` by itself, with its schedule's config where it has one."""
    if isinstance(model, (str, os.PathLike)) and Path(model).suffix == ".onnx":
        return from_onnx(Path(model), inputs, sample_shape, conditioning)
    if inputs is not None:
        raise InvalidArgument("inputs= names the inputs of an ONNX file; other models have x and t")
    config: _Config = {}
    if isinstance(model, str) and model in MODEL_NAMES:
        module, config = named_model(model)
        if model == "digits":
            labels = Conditioning(num_classes=NUM_CLASSES, null=NULL_CLASS)
            return Network(module, SAMPLE_SHAPE, {"class_labels": labels}, model), config
        return replace(_of_module(module, sample_shape), name=_label(model)), config
    if isinstance(model, (str, os.PathLike)):
        module, beside = _load(Path(model))
        return _of_module(module, sample_shape), beside or {}
    if isinstance(model, ExportedProgram):
        return from_program(model, sample_shape, conditioning), config
    if not isinstance(model, nn.Module):
        if not callable(model) or isinstance(model, type):
            raise InvalidArgument(
                "model: expected an nn.Module, an ExportedProgram, a function, a name or a path, "
                f"got {type(model).__name__}"
            )
        name = getattr(model, "__name__", type(model).__name__)
        return replace(_of_module(FunctionModule(model), sample_shape, name), name=name), config
    return _of_module(unwrapped(model), sample_shape), config


def _load(path: Path) -> tuple[nn.Module, Path | None]:
    """Load the model of a folder, and refuse what is none."""
    if path.is_dir():
        return load_diffusers(path)
    if path.suffix in _PICKLED and path.exists():
        raise InvalidArgument(
            f"{path.name} may hold pickled objects, which run code of whoever wrote them when they "
            "are read; read it yourself (torch.export.load, torch.load) if you trust it, and pass "
            "what you get"
        )
    known = [*MODEL_NAMES, "the path of a diffusers folder", "the path of an .onnx file"]
    raise UnknownName("model", str(path), known)


def _of_module(
    module: nn.Module, sample_shape: SampleShape | None, name: str | None = None
) -> Network:
    network = from_diffusers(module, sample_shape)
    if network is not None:
        return network
    name = name or type(module).__name__
    if sample_shape is None:
        raise InvalidArgument(
            f"sample_shape=(C, ...) is needed: {name} has no config that tells it"
        )
    return Network(module, sample_shape, name=name)


def _label(name: str) -> str:
    """Return what reports call a named model; warn if it cannot draw."""
    if cached_weights(name) is not None:
        return name
    warnings.warn(
        f"{name} has random weights, since the local Hugging Face cache holds none: it serves to "
        "measure speed, its samples are noise",
        stacklevel=6,  # whoever called compile
    )
    return f"{name} (random weights)"

"""`fastdiff.compile`: a trained model in, a sampler out."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fastdiff.errors import ArtifactError, InvalidArgument, UnknownName
from fastdiff.exporting import Conditioning, Network
from fastdiff.integrations import (
    MODEL_NAMES,
    cached_weights,
    from_diffusers,
    is_pipeline,
    load_diffusers,
    named_model,
)
from fastdiff.models import NULL_CLASS, NUM_CLASSES, SAMPLE_SHAPE
from fastdiff.runtime import Cache, Choices, Sampler, cache_key, load_artifact
from fastdiff.runtime import tune as measure_engines
from fastdiff.runtime.progress import Say, compile_progress
from fastdiff.sampling import Schedule


def compile(
    model: nn.Module | str | os.PathLike[str],
    *,
    schedule: Schedule | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    sample_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    null_class: int | None = None,
    conditioning: Mapping[str, Conditioning] | None = None,
    backend: str = "auto",
    precision: str = "auto",
    max_batch: int | None = None,
    tune: str | float = "fast",
    verify: str = "strict",
    cache: bool = True,
    progress: bool = False,
) -> Sampler | Any:
    """Turn a trained denoiser into the fastest correct sampler that this machine can run.

    Exports the model, measures the engines interleaved at several batch sizes, refuses those whose
    output strays from the float32 model, and keeps the fastest. `Sampler.report` tells it all.

    Parameters
    ----------
    model : nn.Module, str or path
        ``model(x, t, **conditioning)`` for x (B, C, H, W) and t (B,) float32, returning (B, C, H,
        W), or (B, 2C, H, W) with a learned variance; or a diffusers ``UNet2DModel``,
        ``UNet2DConditionModel`` or ``DiTTransformer2DModel``, or the path of a folder that holds
        one; or a name: ``"digits"``, the model that comes with the package, or
        ``"ddpm-cifar10"``, ``"dit-s2"``, ``"dit-xl2"``, ``"sd15-unet"``, published models whose
        weights are taken from the local Hugging Face cache and are random where it has none. It
        is copied, never changed.
    schedule : Schedule, mapping or path
        Noise schedule and prediction type: a `Schedule`, a diffusers scheduler config, or the path
        of a scheduler_config.json. The default is DDPM's linear schedule with epsilon prediction.
    sample_shape : tuple of int
        (C, H, W) of one sample; read from the config of a diffusers model.
    num_classes, null_class : int
        For a model with an input ``class_labels``: how many labels there are, and which one means
        unconditional.
    conditioning : mapping of str to Conditioning
        Other named inputs of the model.
    backend : str
        ``"auto"``, or an engine: ``"eager"``, ``"onnxruntime"``, ``"openvino"``, ``"inductor"``,
        ``"eager-cuda"``, ``"inductor-cuda"``, ``"onnxruntime-cuda"``, ``"onnxruntime-tensorrt"``,
        ``"tensorrt"``, ``"tensorrt-rtx"`` (docs/engines.md). A named one that cannot run raises;
        nothing falls back.
    precision : str
        ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    max_batch : int
        Rows per denoiser call; measured if left out.
    tune : str or float
        Time to spend on measuring: ``"fast"``, ``"full"`` or seconds.
    verify : str
        ``"strict"`` refuses an engine that strays from the float32 model, ``"warn"`` keeps it with
        a warning, ``"off"`` does not look.
    cache : bool
        Keep the result under the user's cache folder, and take it from there the next time this
        model is compiled on this machine with the same choices (`fastdiff cache list`).
    progress : bool
        Say on the terminal what is being prepared and measured.

    Returns
    -------
    Sampler
        For a pipeline of diffusers instead an object that is called as the pipeline is
        (docs/pipelines.md).

    Raises
    ------
    InvalidArgument
        An argument is wrong or missing.
    ModelOutputError
        The model returns something else than a tensor of the expected shape.
    Unavailable
        The engine asked for cannot run here, or none passes its certificate.
    """
    description = {
        "schedule": schedule,
        "sample_shape": sample_shape,
        "num_classes": num_classes,
        "null_class": null_class,
        "conditioning": conditioning,
    }
    if is_pipeline(model):
        from fastdiff.integrations.pipelines import compile_pipeline

        told = [name for name, value in description.items() if value is not None]
        if told:
            raise InvalidArgument(f"{told[0]}= is for a denoiser; a pipeline says it itself")
        return compile_pipeline(
            model,
            backend=backend,
            precision=precision,
            max_batch=max_batch,
            tune=tune,
            verify=verify,
            cache=cache,
            progress=progress,
        )
    network, chosen = describe(model, **description)
    network = replace(network, output_channels=network.probe())
    choices = Choices(backend, precision, max_batch, tune, verify)
    with compile_progress(enabled=progress) as say:
        key = cache_key(network, chosen, choices) if cache else None
        if key is None:
            return Sampler(measure_engines(network, chosen, choices, say))
        store = Cache()
        with store.lock(key):
            kept = _from_cache(store, key, network, say)
            if kept is not None:
                return kept
            sampler = Sampler(measure_engines(network, chosen, choices, say))
            with contextlib.suppress(InvalidArgument):  # torch cannot export it: nothing to keep
                sampler.save(store.path(key))
                store.trim()
            return sampler


def _from_cache(store: Cache, key: str, network: Network, say: Say) -> Sampler | None:
    """Return the sampler that was kept for `key`; remove an entry that is no good."""
    path = store.path(key)
    if not path.exists():
        return None
    try:
        compiled = load_artifact(path, say, module=network.module)
    except ArtifactError:
        path.unlink(missing_ok=True)
        return None
    store.touch(key)
    return Sampler(compiled)


def load(
    path: str | os.PathLike[str],
    *,
    verify: bool = False,
    trust_blobs: bool = False,
    progress: bool = False,
) -> Sampler:
    """Read a sampler that `Sampler.save` wrote.

    On a machine like the one that saved it, nothing is compiled or measured; on another, the
    engines are measured again, and judged by the reference in the file.

    Parameters
    ----------
    path : path-like
    verify : bool
        Make the chosen engine's certificate again.
    trust_blobs : bool
        Run the engine's compiled code in the file although somebody else's fastdiff compiled it:
        native code, which can do anything. Without it, it is compiled again from the network.
    progress : bool
        Say on the terminal what is being done.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ArtifactError
        The file is corrupt, was changed, or has a format that this version cannot read.
    Unavailable
        No engine of this machine can run the model.
    """
    with compile_progress(enabled=progress) as say:
        return Sampler(load_artifact(Path(path), say, verify=verify, trust_blobs=trust_blobs))


def describe(
    model: nn.Module | str | os.PathLike[str],
    schedule: Schedule | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    sample_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    null_class: int | None = None,
    conditioning: Mapping[str, Conditioning] | None = None,
) -> tuple[Network, Schedule]:
    """Return what `compile` makes of its arguments: the network and its noise schedule.

    Parameters and errors are those of `compile`.
    """
    network, config = _read(model, sample_shape)
    network = _with_conditioning(network, num_classes, null_class, conditioning)
    given = schedule if schedule is not None else config
    return network, given if isinstance(given, Schedule) else Schedule.from_config(given)


def _read(
    model: nn.Module | str | os.PathLike[str], sample_shape: tuple[int, int, int] | None
) -> tuple[Network, Mapping[str, Any] | Path]:
    """Return what is known of `model` by itself, with its schedule's config where it has one."""
    config: Mapping[str, Any] | Path = {}
    name = None
    if isinstance(model, str) and model in MODEL_NAMES:
        name = model
        model, config = named_model(name)
    elif isinstance(model, (str, os.PathLike)):
        if not Path(model).is_dir():
            known = [*MODEL_NAMES, "the path of a diffusers folder"]
            raise UnknownName("model", str(model), known)
        model, beside = load_diffusers(Path(model))
        config = beside or {}
    if not isinstance(model, nn.Module):
        raise InvalidArgument(
            f"model: expected an nn.Module, a name or a folder, got {type(model).__name__}"
        )
    if name == "digits":
        labels = Conditioning(num_classes=NUM_CLASSES, null=NULL_CLASS)
        return Network(model, SAMPLE_SHAPE, {"class_labels": labels}, name), config
    network = from_diffusers(model, sample_shape)
    if network is not None:
        return (network if name is None else replace(network, name=_label(name))), config
    if sample_shape is None:
        raise InvalidArgument(
            f"sample_shape=(C, H, W) is needed: {type(model).__name__} has no config that tells it"
        )
    return Network(model, sample_shape, name=type(model).__name__), config


def _label(name: str) -> str:
    """Return what reports call a named model; warn if it cannot draw."""
    if cached_weights(name) is not None:
        return name
    warnings.warn(
        f"{name} has random weights, since the local Hugging Face cache holds none: it serves to "
        "measure speed, its samples are noise",
        stacklevel=5,  # whoever called compile
    )
    return f"{name} (random weights)"


def _with_conditioning(
    network: Network,
    num_classes: int | None,
    null_class: int | None,
    conditioning: Mapping[str, Conditioning] | None,
) -> Network:
    """Add what the caller says of the model's inputs to what its config says."""
    inputs = {**network.conditioning, **(conditioning or {})}
    if num_classes is not None:
        labels = inputs.get("class_labels", Conditioning())
        inputs["class_labels"] = replace(labels, num_classes=num_classes)
    if null_class is not None:
        if "class_labels" not in inputs:
            raise InvalidArgument("null_class= needs num_classes= as well")
        inputs["class_labels"] = replace(inputs["class_labels"], null=null_class)
    return replace(network, conditioning=inputs)

"""`fastdiff.compile`: a trained model in, a sampler out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastdiff.errors import ArtifactError, InvalidArgument
from fastdiff.exporting import Conditioning, Network
from fastdiff.integrations import Model, ScheduleLike, describe, is_pipeline
from fastdiff.runtime import Cache, Choices, Sampler, cache_key, load_artifact
from fastdiff.runtime import tune as measure_engines
from fastdiff.runtime.progress import Say, compile_progress

__all__ = ["compile", "describe", "load"]


def compile(
    model: Model,
    *,
    schedule: ScheduleLike | None = None,
    prediction_type: str | None = None,
    inputs: Mapping[str, str] | None = None,
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
    description: dict[str, Any] = {
        "schedule": schedule,
        "prediction_type": prediction_type,
        "inputs": inputs,
        "sample_shape": sample_shape,
        "num_classes": num_classes,
        "null_class": null_class,
        "conditioning": conditioning,
    }
    if is_pipeline(model):
        from fastdiff.integrations.pipelines import compile_pipeline

        told = [name for name, value in description.items() if value is not None]
        if told not in ([], ["sample_shape"]):
            raise InvalidArgument(f"{told[0]}= is for a denoiser; a pipeline says it itself")
        return compile_pipeline(
            model,
            sample_shape=sample_shape,
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

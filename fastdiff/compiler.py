"""`fastdiff.compile`: a trained model in, a sampler out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdiff.compiling import CompileOptions
from fastdiff.errors import InvalidArgument
from fastdiff.integrations import Model, ScheduleLike, describe, is_pipeline
from fastdiff.modes import compiling
from fastdiff.networks import Conditioning, SampleShape
from fastdiff.progress import compile_progress, tell_result
from fastdiff.sampler import Sampler
from fastdiff.storing import load_artifact, tune_or_recall

__all__ = ["compile", "describe", "load"]


@compiling()
def compile(
    model: Model,
    *,
    schedule: ScheduleLike | None = None,
    prediction_type: str | None = None,
    inputs: Mapping[str, str] | None = None,
    sample_shape: SampleShape | None = None,
    num_classes: int | None = None,
    null_class: int | None = None,
    conditioning: Mapping[str, Conditioning] | None = None,
    backend: str = "auto",
    precision: str = "auto",
    max_batch: int | None = None,
    tune: str | float = "fast",
    verify: str = "strict",
    cache: bool = True,
    progress: bool | None = None,
    batch_invariant: bool = False,
) -> Sampler | Any:
    """Turn a trained denoiser into the fastest correct sampler that this machine can run.

    Exports the model, measures the backends interleaved at several batch sizes, refuses those whose
    output strays from the float32 model, and keeps the fastest. `Sampler.report` tells it all.

    Parameters
    ----------
    model : nn.Module, function, ExportedProgram, str or path
        A denoiser, which is copied and never changed: a module or a function that is called as
        ``model(x, t, **conditioning)`` for x (B, C, H, W) and t (B,) float32 and returns (B, C, H,
        W), or (B, 2C, H, W) with a learned variance; a program of ``torch.export``; a denoiser of
        diffusers, or the folder of one; the path of an ``.onnx`` file, whoever exported it; or a
        name: ``"digits"``, the model that comes with the package, or ``"ddpm-cifar10"``,
        ``"dit-s2"``, ``"dit-xl2"``, ``"sd15-unet"``, published models whose weights are taken from
        the local Hugging Face cache and are random where it has none. Or a pipeline of diffusers,
        or its folder. docs/models.md has them all.
    schedule : Schedule, scheduler, mapping or path
        Noise schedule and prediction type: a `Schedule`, a scheduler of diffusers, its config, or
        the path of a scheduler_config.json. What a model by name, a file or a folder tells if left
        out; where it tells nothing, DDPM's linear schedule with epsilon prediction is assumed,
        with an `AssumptionWarning`.
    prediction_type : str
        What the network predicts, instead of what the schedule says: ``"epsilon"``, ``"sample"``,
        ``"v_prediction"``, ``"flow_prediction"`` or ``"edm"``.
    inputs : mapping of str to str
        For an ONNX file, its names of the inputs: ``{"x": "latent", "t": "timestep"}``, and of
        conditioning that is to be called otherwise. Usual names are known.
    sample_shape : tuple of int
        (C, H, W) of one sample; read from the config of a diffusers model, a file or a program.
    num_classes, null_class : int
        For a model with an input ``class_labels``: how many labels there are, and which one means
        unconditional.
    conditioning : mapping of str to Conditioning
        Other named inputs of the model; for a file or a program what it does not tell of them;
        for a pipeline those that differ from what its configuration says, such as longer prompt
        embeddings. A model that looks t up in a table is found by trying;
        ``{"t": Conditioning()}`` declares it.
    backend : str
        ``"auto"``, or a backend: ``"native"``, ``"eager"``, ``"onnxruntime"``, ``"openvino"``,
        ``"inductor"``, ``"eager-cuda"``, ``"inductor-cuda"``, ``"onnxruntime-cuda"``,
        ``"onnxruntime-tensorrt"``, ``"tensorrt"``, ``"tensorrt-rtx"`` (docs/backends.md). A named
        one that cannot run raises; nothing falls back.
    precision : str
        ``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"int8"``, which is tried only
        when it is named.
    max_batch : int
        Rows per denoiser call; measured if left out.
    tune : str or float
        Time to spend on measuring: ``"fast"``, ``"full"`` or seconds.
    verify : str
        ``"strict"`` refuses a backend that strays from the float32 model, ``"warn"`` keeps it with
        a warning, ``"off"`` does not look.
    cache : bool
        Keep the result under the user's cache folder, and take it from there the next time this
        model is compiled on this machine with the same choices (`fastdiff cache list`).
    progress : bool, optional
        Say on stderr what is being prepared and measured, and in one line at the end what was
        chosen, at which precision and with which certified error. None says it on a terminal and
        in notebooks, unless ``FASTDIFF_PROGRESS`` is 0; True states the end in a pipe too; False
        says nothing.
    batch_invariant : bool
        Give an image the same bits alone and in any company, by denoiser calls of one fixed size,
        which costs speed (docs/batching.md). A matter of this sampler, which no file keeps. For
        backends on the host.

    Returns
    -------
    Sampler
        For a pipeline of diffusers instead an object that is called as the pipeline is
        (docs/pipelines.md).

    Raises
    ------
    InvalidArgument
        An argument is wrong or missing.
    ArtifactError
        An ONNX file is damaged, or is not safe to read.
    ModelOutputError
        The model returns something else than a tensor of the expected shape.
    Unavailable
        The backend asked for cannot run here, or none passes its certificate.
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
    pipeline = None
    if is_pipeline(model):
        from fastdiff.integrations.pipelines import describe_pipeline

        for name, value in description.items():
            if value is not None and name not in {"sample_shape", "conditioning"}:
                raise InvalidArgument(f"{name}= is for a denoiser; a pipeline says it itself")
        pipeline = describe_pipeline(model, sample_shape, conditioning)
        network, chosen = pipeline.network, pipeline.schedule
    else:
        network, chosen = describe(model, **description)
    choices = CompileOptions(backend, precision, max_batch, tune, verify)
    with compile_progress(progress) as say:
        compiled = tune_or_recall(network, chosen, choices, say, cache=cache)
        sampler = Sampler(compiled, batch_invariant=batch_invariant)
    tell_result(compiled.report.statement, progress)
    return sampler if pipeline is None else pipeline.around(sampler)


@compiling()
def load(
    path: str | os.PathLike[str],
    *,
    verify: bool = False,
    trust_blobs: bool = False,
    progress: bool | None = None,
    batch_invariant: bool = False,
) -> Sampler:
    """Read a sampler that `Sampler.save` wrote.

    On a machine like the one that saved it, nothing is compiled or measured; on another, the
    backends are measured again, and judged by the reference in the file.

    Parameters
    ----------
    path : path-like
    verify : bool
        Make the chosen backend's certificate again.
    trust_blobs : bool
        Run the backend's compiled code in the file although somebody else's fastdiff compiled it:
        native code, which can do anything. Without it, it is compiled again from the network.
    progress, batch_invariant
        As for `compile`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ArtifactError
        The file is corrupt, was changed, or has a format that this version cannot read.
    Unavailable
        No backend of this machine can run the model.
    """
    with compile_progress(progress) as say:
        compiled = load_artifact(Path(path), say, verify=verify, trust_blobs=trust_blobs)
        sampler = Sampler(compiled, batch_invariant=batch_invariant)
    tell_result(compiled.report.statement, progress)
    return sampler

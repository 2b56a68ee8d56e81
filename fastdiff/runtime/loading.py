"""From an artifact to a sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from fastdiff.denoisers import Denoiser, get_engine
from fastdiff.errors import ArtifactError, FastdiffError
from fastdiff.exporting import Network
from fastdiff.runtime.artifact import Artifact
from fastdiff.runtime.certificate import certify
from fastdiff.runtime.choices import Choices
from fastdiff.runtime.compiled import Compiled
from fastdiff.runtime.tuning import Say, tune


def load_artifact(
    path: Path, say: Say, *, verify: bool = False, module: nn.Module | None = None
) -> Compiled:
    """Read a saved model; measure again only what this machine has not measured.

    Parameters
    ----------
    path : Path
    say : callable
        Told what is running.
    verify : bool
        Make the chosen engine's certificate again.
    module : nn.Module, optional
        The torch module that the file was made of, for engines that run it.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ArtifactError
        It is corrupt or has another format, or the certificate does not hold.
    """
    say(f"reading {path.name}")
    artifact = Artifact(path)
    network = replace(artifact.network, module=module)
    measured = artifact.measured_here()
    denoiser = None
    if measured is not None:
        denoiser = _build(network, *measured[:2])
    if measured is None or denoiser is None:
        tuned = tune(network, artifact.schedule, Choices(), say, artifact.reference)
        return replace(tuned, workspace=artifact.workspace)
    _, _, seconds, report = measured
    if verify:
        say("certifying again")
        refusal = certify(denoiser, artifact.reference).refusal
        if refusal is not None:
            raise ArtifactError(f"{path.name}: {report.chosen.name} is not what it was: {refusal}")
    return Compiled(
        network,
        artifact.schedule,
        artifact.reference,
        denoiser,
        seconds,
        report,
        artifact.workspace,
    )


def _build(network: Network, engine: str, precision: str) -> Denoiser | None:
    """Build the engine that was chosen; None if it cannot run any more, so others are measured."""
    try:
        return get_engine(engine).build(network, precision)
    except (FastdiffError, RuntimeError):
        return None

"""What was compiled before: from a file, or from the cache."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from torch import nn

from fastdiff.backends import Denoiser, build_denoiser, by_size, parts_of, row_by_row
from fastdiff.compiling.certificate import certify
from fastdiff.compiling.compiled import Compiled, without_weights
from fastdiff.compiling.failures import reason_of
from fastdiff.compiling.options import CompileOptions
from fastdiff.compiling.tuning import tune
from fastdiff.errors import ArtifactError, InvalidArgument
from fastdiff.networks import Network, WholeTimes
from fastdiff.progress import Say, Stage
from fastdiff.sampling import Schedule
from fastdiff.storing.artifact import Artifact, Measured, save_artifact
from fastdiff.storing.cache import Cache
from fastdiff.storing.content import cache_key


def tune_or_recall(
    network: Network, schedule: Schedule, choices: CompileOptions, say: Say, *, cache: bool = True
) -> Compiled:
    """Return what `tune` makes of a model, from the user's cache if it is there.

    Parameters
    ----------
    network : Network
    schedule : Schedule
    choices : CompileOptions
    say : callable
        Told what is running.
    cache : bool
        Whether to look into the cache, and to keep the result there.

    Raises
    ------
    Unavailable
        No backend can run the model as asked.
    """
    key = cache_key(network, schedule, choices) if cache else None
    if key is None:
        return tune(network.probed(), schedule, choices, say)
    store = Cache()
    kept = _recall(store, key, say, network.module)
    if kept is not None:
        return kept
    with store.lock(key):
        kept = _recall(store, key, say, network.module)  # somebody else may have made it
        if kept is None:
            kept = compiled = tune(network.probed(), schedule, choices, say)
            with contextlib.suppress(InvalidArgument):  # torch cannot export it: nothing to keep
                store.keep(key, lambda path: save_artifact(compiled, path))
    return kept


def _recall(store: Cache, key: str, say: Say, module: nn.Module | None) -> Compiled | None:
    """Return the entry `key`; None if there is none, or it is damaged."""
    path = store.path(key)
    try:
        if not path.exists():
            return None
        kept = load_artifact(path, say, module=module)
    except OSError:  # it is not this user's to read
        return None
    except ArtifactError:
        store.remove(key)
        return None
    store.touch(key)
    return kept


def load_artifact(
    path: Path,
    say: Say,
    *,
    verify: bool = False,
    module: nn.Module | None = None,
    trust_blobs: bool = False,
) -> Compiled:
    """Read a saved model; measure again only what this machine has not measured.

    Parameters
    ----------
    path : Path
    say : callable
        Told what is running.
    verify : bool
        Make the chosen backend's certificate again.
    module : nn.Module, optional
        The torch module that the file was made of, for backends that run it.
    trust_blobs : bool
        Run the compiled code in the file although this user's fastdiff did not compile it. Without
        it, such code is compiled again from the network.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ArtifactError
        It is corrupt or has another format, or the certificate does not hold.
    """
    say(Stage(f"reading {path.name}"))
    artifact = Artifact(path)
    if artifact.whole_times and module is not None and not isinstance(module, WholeTimes):
        module = WholeTimes(module)
    network = replace(artifact.network, module=module)
    measured = artifact.measured_here(trust_blobs)
    denoiser = None
    if measured is not None:
        say(Stage(f"preparing {measured.report.chosen.name}"))
        denoiser = _build(network, measured)
    if measured is None or denoiser is None:
        tuned = tune(network, artifact.schedule, CompileOptions(), say, artifact.reference)
        return replace(tuned, workspace=artifact.workspace)
    if verify:
        say(Stage("certifying again"))
        for part in set(parts_of(denoiser, measured.batch_seconds).values()):
            refusal = certify(part, artifact.reference).refusal
            if refusal is not None:
                raise ArtifactError(f"{path.name}: {part.backend} is not what it was: {refusal}")
    return Compiled(
        without_weights(network),
        artifact.schedule,
        artifact.reference,
        denoiser,
        measured.batch_seconds,
        measured.report,
        artifact.workspace,
    )


def _build(network: Network, measured: Measured) -> Denoiser | None:
    """Build what was chosen; None if it cannot run any more, so that others are measured."""
    coupled = {c.backend for c in measured.report.candidates if c.coupled}
    for blobs in (measured.blobs, None):
        try:
            built = {
                backend: build_denoiser(backend, network, measured.precision, blobs)
                for backend in set(measured.backends.values())
            }
        except Exception as error:  # another backend may serve
            reason_of(error, f"{', '.join(set(measured.backends.values()))} from the file")
            continue
        apart = {name: row_by_row(d) if name in coupled else d for name, d in built.items()}
        return by_size({size: apart[backend] for size, backend in measured.backends.items()})
    return None

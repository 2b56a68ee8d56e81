"""Other weights for a model that was compiled, without measuring again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from fastdiff.denoisers import Denoiser, build_denoiser, by_size, parts_of, reference_denoiser
from fastdiff.errors import AccuracyWarning, InvalidArgument, Unavailable
from fastdiff.exporting import Network, export_onnx, with_weights
from fastdiff.modes import compiling
from fastdiff.runtime.calibration import with_samples
from fastdiff.runtime.certificate import Certificate, Trajectory, certify, reference_trajectory
from fastdiff.runtime.compiled import Compiled, Workspace, without_weights
from fastdiff.runtime.report import Candidate, Report


@compiling()
def update_weights(compiled: Compiled, weights: nn.Module | Mapping[str, Tensor]) -> Compiled:
    """Return `compiled` with other weights: what `fastdiff.compile` would make of them.

    Engines, precision and batch sizes stay as they were measured. The network is exported and
    built anew for the engines that are in use, and each is certified against the new model.

    Parameters
    ----------
    compiled : Compiled
        Stays as it is and may go on sampling meanwhile.
    weights : nn.Module or mapping of str to Tensor
        A module with the names and shapes of the one that was compiled, which is copied, or its
        ``state_dict``.

    Raises
    ------
    WeightsError
        Names or shapes differ.
    Unavailable
        An engine cannot be built with the new weights, or strays further from the new model than
        its precision may; `compiled` serves on.
    """
    workspace = Workspace()
    network = _network(compiled.network, weights)
    plain = reference_denoiser(network)
    reference = reference_trajectory(network, plain, compiled.schedule)
    if compiled.report.chosen.precision == "int8":
        network = with_samples(network, plain, compiled.schedule)
    if compiled.network.onnx is not None:
        path = workspace.path / compiled.network.onnx.name
        network = replace(network, onnx=export_onnx(network, path, schedule=compiled.schedule))
    parts = parts_of(compiled.denoiser, compiled.batch_seconds)
    renewed = {
        old: _renew(old, network, reference, compiled.report)
        for old in dict.fromkeys(parts.values())
    }
    return Compiled(
        without_weights(network),
        compiled.schedule,
        reference,
        by_size({size: renewed[old][0] for size, old in parts.items()}),
        compiled.batch_seconds,
        _report(compiled.report, {old.engine: made for old, (_, made) in renewed.items()}),
        workspace,
    )


def _network(old: Network, weights: nn.Module | Mapping[str, Tensor]) -> Network:
    """Describe the network with its new weights, and check that it answers as the old one."""
    if old.module is not None:
        module = with_weights(old.module, weights)
    elif isinstance(weights, nn.Module):
        module = weights
    else:
        raise InvalidArgument(
            f"{old.name} was loaded from a file, without its module: pass the whole module, called "
            "as module(x, t, **conditioning)"
        )
    return replace(old, module=module, onnx=None, file=None, output_channels=None).probed()


def _renew(
    old: Denoiser, network: Network, reference: Trajectory, report: Report
) -> tuple[Denoiser, Certificate | None]:
    """Build what `old` is with the new weights, and judge it as strictly as `old` was judged."""
    new = build_denoiser(old.engine, network, old.precision)
    before = _candidate(report, old.engine).certificate
    if before is None:  # verify="off"
        return new, None
    certificate = certify(new, reference)
    if certificate.refusal is not None:
        message = f"{old.engine} {old.precision} with the new weights: {certificate.refusal}"
        if before.refusal is None:
            raise Unavailable(f"{message}; compile the new model")
        warnings.warn(message, AccuracyWarning, stacklevel=5)
    return new, certificate


def _candidate(report: Report, engine: str) -> Candidate:
    """Return the row of an engine that is in use."""
    return next(c for c in report.candidates if c.engine == engine and c.chosen_from is not None)


def _report(old: Report, certificates: Mapping[str, Certificate | None]) -> Report:
    """Return the report with the new certificates, and none where no new one was made."""
    precision = old.chosen.precision
    candidates = [
        replace(c, certificate=certificates.get(c.engine) if c.precision == precision else None)
        for c in old.candidates
    ]
    return Report(old.model, old.machine, candidates)

"""Other weights for a model that was compiled, without measuring again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from fastdiff.backends import Denoiser, build_denoiser, by_size, parts_of, reference_denoiser
from fastdiff.compiling.calibration import with_samples
from fastdiff.compiling.certificate import Certificate, certify
from fastdiff.compiling.company import Company
from fastdiff.compiling.compiled import Compiled, Workspace, without_weights
from fastdiff.compiling.report import Candidate, Report
from fastdiff.compiling.trajectory import Trajectory, reference_trajectory
from fastdiff.errors import AccuracyWarning, InvalidArgument, Unavailable
from fastdiff.exporting import export_onnx
from fastdiff.modes import compiling
from fastdiff.networks import Network, with_weights


@compiling()
def update_weights(compiled: Compiled, weights: nn.Module | Mapping[str, Tensor]) -> Compiled:
    """Return `compiled` with other weights: what `fastdiff.compile` would make of them.

    Backends, precision and batch sizes stay as they were measured. The network is exported and
    built anew for the backends that are in use, and each is certified against the new model.

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
        A backend cannot be built with the new weights, or strays further from the new model than
        its precision may; `compiled` serves on.
    """
    workspace = Workspace()
    network = _network(compiled.network, weights)
    company = Company.of(network, compiled.schedule)
    plain = company.apart(reference_denoiser(network))
    reference = reference_trajectory(network, plain, compiled.schedule)
    if compiled.report.chosen.precision == "int8":
        network = with_samples(network, plain, compiled.schedule)
    if compiled.network.onnx is not None:
        path = workspace.path / compiled.network.onnx.name
        network = replace(network, onnx=export_onnx(network, path, schedule=compiled.schedule))
    parts = parts_of(compiled.denoiser, compiled.batch_seconds)
    renewed = {
        old: _renew(old, network, company, reference, compiled.report)
        for old in dict.fromkeys(parts.values())
    }
    return Compiled(
        without_weights(network),
        compiled.schedule,
        reference,
        by_size({size: renewed[old].denoiser for size, old in parts.items()}),
        compiled.batch_seconds,
        _report(compiled.report, {old.backend: made for old, made in renewed.items()}),
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


@dataclass(frozen=True)
class _Renewed:
    """A backend's denoiser with the new weights, and what was found when it was looked at."""

    denoiser: Denoiser
    certificate: Certificate | None
    coupled: bool


def _renew(
    old: Denoiser,
    network: Network,
    company: Company,
    reference: Trajectory,
    report: Report,
) -> _Renewed:
    """Build what `old` is with the new weights, and judge it as strictly as `old` was judged."""
    built = build_denoiser(old.backend, network, old.precision)
    new = company.apart(built)
    coupled = new is not built
    before = _candidate(report, old.backend).certificate
    if before is None:  # verify="off"
        return _Renewed(new, None, coupled)
    certificate = certify(new, reference)
    if certificate.refusal is not None:
        message = f"{old.backend} {old.precision} with the new weights: {certificate.refusal}"
        if before.refusal is None:
            raise Unavailable(f"{message}; compile the new model")
        warnings.warn(message, AccuracyWarning, stacklevel=5)
    return _Renewed(new, certificate, coupled)


def _candidate(report: Report, backend: str) -> Candidate:
    """Return the row of a backend that is in use."""
    return next(c for c in report.candidates if c.backend == backend and c.chosen_from is not None)


def _report(old: Report, renewed: Mapping[str, _Renewed]) -> Report:
    """Return the report with the new certificates, and none where no new one was made."""
    precision, candidates = old.chosen.precision, []
    for candidate in old.candidates:
        new = renewed.get(candidate.backend) if candidate.precision == precision else None
        coupled = candidate.coupled if new is None else new.coupled
        certificate = None if new is None else new.certificate
        candidates.append(replace(candidate, certificate=certificate, coupled=coupled))
    return Report(old.model, old.machine, candidates)

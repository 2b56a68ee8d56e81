"""A compiled model as one file.

The file is a zip of plain entries, stored without compression:

======================== ==========================================================================
manifest.json            format, model, shapes, conditioning, schedule, SHA-256 of the other
                         entries, and what was measured, by machine fingerprint
denoiser.onnx (+ data)   the network
reference.safetensors    inputs and outputs of the float32 model, for the certificate
======================== ==========================================================================

Reading trusts nothing: sizes are checked before anything is read, names before anything is
written, hashes before anything is used; nothing is unpickled or executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fastdiff.errors import ArtifactError, InvalidShape
from fastdiff.exporting import Network, export_onnx
from fastdiff.exporting.metadata import conditioning_from_json, conditioning_to_json
from fastdiff.runtime.certificate import Trajectory, reference_table
from fastdiff.runtime.compiled import Compiled, Workspace
from fastdiff.runtime.machine import fingerprint
from fastdiff.runtime.onnx_check import check_onnx
from fastdiff.runtime.report import Report
from fastdiff.sampling import Schedule

FORMAT = 1
MANIFEST, NETWORK, REFERENCE = "manifest.json", "denoiser.onnx", "reference.safetensors"
_MAX_MANIFEST_BYTES = 4 << 20
_MAX_ENTRIES = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def save_artifact(compiled: Compiled, path: Path) -> None:
    """Write `compiled` to `path`, under a temporary name first."""
    network = compiled.network
    with tempfile.TemporaryDirectory(prefix="fastdiff-") as folder:
        files = Path(folder)
        if network.onnx is None:
            export_onnx(network, files / NETWORK)
        else:
            for part in network.onnx.parent.glob(network.onnx.name + "*"):
                name = part.name.replace(network.onnx.name, NETWORK, 1)
                shutil.copyfile(part, files / name)
        save_file(_tensors(compiled.reference), files / REFERENCE)
        names = sorted(entry.name for entry in files.iterdir())
        manifest = {
            "format": FORMAT,
            "model": network.name,
            "sample_shape": network.sample_shape,
            "output_channels": network.probe(),
            "conditioning": {k: conditioning_to_json(v) for k, v in network.conditioning.items()},
            "schedule": compiled.schedule.to_config(),
            "files": {name: _sha256(files / name) for name in names},
            "machines": {fingerprint(): _measured_to_json(compiled)},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
                for name in names:
                    archive.write(files / name, name)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


class Artifact:
    """A file that was read and checked.

    Attributes
    ----------
    network : Network
        By its ONNX file, without a module.
    schedule : Schedule
    reference : Trajectory
    workspace : Workspace
        Where the files lie.
    """

    def __init__(self, path: Path) -> None:
        self.workspace = Workspace()
        folder = self.workspace.path
        manifest = _extract(path, folder)
        try:
            self._read(manifest, folder)
        except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(
                f"{path.name} does not hold what its format promises: {error}"
            ) from error

    def _read(self, manifest: dict[str, Any], folder: Path) -> None:
        check_onnx(folder / NETWORK, set(manifest["files"]))
        self.schedule = Schedule(**manifest["schedule"])
        self.network = Network(
            module=None,
            sample_shape=tuple(manifest["sample_shape"]),
            conditioning={
                str(k): conditioning_from_json(v) for k, v in manifest["conditioning"].items()
            },
            name=str(manifest["model"]),
            onnx=folder / NETWORK,
            output_channels=int(manifest["output_channels"]),
        )
        tensors = load_file(folder / REFERENCE)
        self.reference = _trajectory(tensors, self.network, self.schedule)
        self._machines: Mapping[str, Any] = dict(manifest["machines"])

    def measured_here(self) -> tuple[str, str, dict[int, float], Report] | None:
        """Return engine, precision, times and report if a machine like this one measured it."""
        record = self._machines.get(fingerprint())
        if record is None:
            return None
        try:
            seconds = {int(b): float(s) for b, s in record["batch_seconds"].items()}
            report = Report.from_json(record["report"])
            return str(record["engine"]), str(record["precision"]), seconds, report
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"what the artifact says was measured is malformed: {error}"
            ) from error


def _extract(path: Path, folder: Path) -> dict[str, Any]:
    """Check the archive and write its entries to `folder`; return the manifest."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _check_entries(archive, path)
            manifest = json.loads(archive.read(MANIFEST))
            files = _check_manifest(manifest, entries)
            for name, expected in files.items():
                with archive.open(name) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                if _sha256(folder / name) != expected:
                    raise ArtifactError(f"{path.name}: {name} does not have the hash it should")
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, json.JSONDecodeError, UnicodeError) as error:
        raise ArtifactError(f"{path.name} is not a complete fastdiff artifact: {error}") from error
    return dict(manifest)


def _check_entries(archive: zipfile.ZipFile, path: Path) -> set[str]:
    """Refuse what a fastdiff archive never has, by the directory alone."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(infos) > _MAX_ENTRIES or len(set(names)) != len(names):
        raise ArtifactError(f"{path.name} has {len(infos)} entries or repeats a name")
    for info in infos:
        if not _NAME.fullmatch(info.filename):
            raise ArtifactError(f"{path.name} has an entry with the name {info.filename!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ArtifactError(f"{path.name}: {info.filename} is compressed or encrypted")
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise ArtifactError(f"{path.name} declares more bytes than it has")
    if MANIFEST not in names:
        raise ArtifactError(f"{path.name} has no {MANIFEST}: it is no fastdiff artifact")
    if archive.getinfo(MANIFEST).file_size > _MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path.name}: {MANIFEST} is larger than {_MAX_MANIFEST_BYTES} bytes")
    return set(names)


def _check_manifest(manifest: Any, entries: set[str]) -> dict[str, str]:
    """Return the hashes of the files, which must be exactly the other entries."""
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{MANIFEST} holds no object")
    if manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"the artifact has format {manifest.get('format')!r}, this version of fastdiff reads "
            f"{FORMAT}; compile the model again, or use the version that wrote it"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or set(files) != entries - {MANIFEST}:
        raise ArtifactError(f"{MANIFEST} does not list the entries that are there")
    if not {NETWORK, REFERENCE} <= set(files):
        raise ArtifactError(f"the artifact lacks {NETWORK} or {REFERENCE}")
    return {str(name): str(digest) for name, digest in files.items()}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _measured_to_json(compiled: Compiled) -> dict[str, Any]:
    return {
        "engine": compiled.denoiser.engine,
        "precision": compiled.denoiser.precision,
        "batch_seconds": dict(compiled.batch_seconds),
        "report": compiled.report.to_json(),
    }


def _tensors(reference: Trajectory) -> dict[str, torch.Tensor]:
    own = {
        name: getattr(reference, name).contiguous()
        for name in ("noise", "inputs", "outputs", "sample")
    }
    return own | {f"conditioning.{k}": v.contiguous() for k, v in reference.conditioning.items()}


def _trajectory(
    tensors: dict[str, torch.Tensor], network: Network, schedule: Schedule
) -> Trajectory:
    """Rebuild the reference, with every shape checked against the network's."""
    table = reference_table(schedule)
    rows, levels = len(tensors["noise"]), len(table)
    channels, height, width = network.sample_shape
    shapes = {
        "noise": (rows, channels, height, width),
        "sample": (rows, channels, height, width),
        "inputs": (levels, rows, channels, height, width),
        "outputs": (levels, rows, network.output_channels, height, width),
    } | {f"conditioning.{k}": (rows, *v.shape) for k, v in network.conditioning.items()}
    if set(tensors) != set(shapes):
        raise InvalidShape(f"{REFERENCE} holds {sorted(tensors)}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise InvalidShape(f"{REFERENCE}: {name} is {tuple(tensors[name].shape)}, not {shape}")
    conditioning = {k: tensors[f"conditioning.{k}"] for k in network.conditioning}
    fixed = {name: tensors[name] for name in ("noise", "inputs", "outputs", "sample")}
    return Trajectory(table=table, conditioning=conditioning, **fixed)

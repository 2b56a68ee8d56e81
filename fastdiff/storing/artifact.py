"""A compiled model as one file.

The file is a zip of plain entries, stored without compression:

======================== ==========================================================================
manifest.json            format, model, shapes, conditioning, schedule, SHA-256 of the other
                         entries, and what was measured, by machine fingerprint
denoiser.onnx (+ data)   the network
reference.safetensors    a trajectory of the float32 model, for the certificate
blob-*                   what the chosen backend compiled, for machines of the same fingerprint
======================== ==========================================================================

Reading trusts nothing: sizes are checked before anything is read, names before anything is
written, hashes before anything is used; nothing is unpickled or executed. Blobs are native code,
so only those run that this user's own fastdiff compiled (`fastdiff.storing.signing`); from all
other files they are compiled again.
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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fastdiff.backends import parts_of
from fastdiff.compiling.compiled import Compiled, Workspace
from fastdiff.compiling.failures import reason_of
from fastdiff.compiling.machine import fingerprint
from fastdiff.compiling.report import Report
from fastdiff.compiling.trajectory import from_tensors, to_tensors
from fastdiff.errors import ArtifactError
from fastdiff.exporting import export_onnx
from fastdiff.exporting.metadata import conditioning_from_json, conditioning_to_json
from fastdiff.networks import Network, WholeTimes
from fastdiff.sampling import Schedule
from fastdiff.storing.onnx_check import check_onnx
from fastdiff.storing.signing import is_own, sign

FORMAT = 4
MANIFEST, NETWORK, REFERENCE = "manifest.json", "denoiser.onnx", "reference.safetensors"
_BLOB, _BLOBS = "blob-", "blobs"  # in front of their names in the file; their folder when read
_NO_ARCHIVE = (zipfile.BadZipFile, EOFError, OSError, json.JSONDecodeError, UnicodeError)
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
        save_file(to_tensors(compiled.reference), files / REFERENCE)
        _save_blobs(compiled, files)
        names = sorted(entry.name for entry in files.iterdir())
        hashes = {name: _sha256(files / name) for name in names}
        manifest = {
            "format": FORMAT,
            "model": network.name,
            "sample_shape": network.sample_shape,
            "output_channels": network.probe(),
            "batch": network.batch,
            "whole_times": isinstance(network.module, WholeTimes),
            "conditioning": {k: conditioning_to_json(v) for k, v in network.conditioning.items()},
            "schedule": compiled.schedule.to_config(),
            "files": hashes,
            "machines": {fingerprint(): _measured_to_json(compiled, hashes)},
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


def _save_blobs(compiled: Compiled, files: Path) -> None:
    """Write what the backend compiled, under names that tell it from the rest."""
    with tempfile.TemporaryDirectory(prefix="fastdiff-") as folder:
        try:
            compiled.denoiser.save(Path(folder), compiled.batch_seconds)
        except Exception as error:  # a file is complete without them
            reason_of(error, f"the compiled code of {compiled.denoiser.backend}")
            return
        for blob in Path(folder).iterdir():
            shutil.move(blob, files / f"{_BLOB}{blob.name}")


@dataclass(frozen=True)
class Measured:
    """What a machine like this one chose.

    Attributes
    ----------
    backends : mapping of int to str
        By rows per call.
    precision : str
    batch_seconds : mapping of int to float
    report : Report
    blobs : Path or None
        Folder of compiled code that may run.
    """

    backends: Mapping[int, str]
    precision: str
    batch_seconds: Mapping[int, float]
    report: Report
    blobs: Path | None


class Artifact:
    """A file that was read and checked.

    Attributes
    ----------
    network : Network
        By its ONNX file, without a module.
    schedule : Schedule
    reference : Trajectory
    whole_times : bool
        Whether the module that it was made of takes whole times alone.
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
        self._hashes = dict(manifest["files"])
        check_onnx(folder / NETWORK, {name for name in self._hashes if name.startswith(NETWORK)})
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
            batch=_batch(manifest.get("batch")),
            num_train_timesteps=self.schedule.num_train_timesteps,
        )
        self.whole_times = manifest.get("whole_times") is True
        tensors = load_file(folder / REFERENCE)
        self.reference = from_tensors(tensors, self.network, self.schedule)
        self._machines: Mapping[str, Any] = dict(manifest["machines"])

    def measured_here(self, trust_blobs: bool = False) -> Measured | None:
        """Return what a machine like this one measured, if one did.

        Parameters
        ----------
        trust_blobs : bool
            Whether compiled code may run that this user did not compile.
        """
        record = self._machines.get(fingerprint())
        if record is None:
            return None
        try:
            backends, precision = dict(record["backends"]), str(record["precision"])
            own = is_own(_signed(backends, precision, self._hashes), str(record["signature"]))
            return Measured(
                {int(b): str(backend) for b, backend in backends.items()},
                precision,
                {int(b): float(s) for b, s in record["batch_seconds"].items()},
                Report.from_json(record["report"]),
                self.workspace.path / _BLOBS if own or trust_blobs else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"what the artifact says was measured is malformed: {error}"
            ) from error


def _batch(value: Any) -> int | None:
    """Return the fixed number of rows per call, if there is one."""
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"batch {value!r} is no number of rows")
    return value


def _extract(path: Path, folder: Path) -> dict[str, Any]:
    """Check the archive and write its entries to `folder`; return the manifest."""
    try:
        with zipfile.ZipFile(path) as archive:
            manifest, files = _read_manifest(archive, path)
            (folder / _BLOBS).mkdir()
            for name, expected in files.items():
                blob = name.removeprefix(_BLOB)
                target = folder / name if blob == name else folder / _BLOBS / blob
                with archive.open(name) as source:
                    digest = _copy(source, target)
                if digest != expected:
                    raise ArtifactError(f"{path.name}: {name} does not have the hash it should")
    except FileNotFoundError:
        raise
    except _NO_ARCHIVE as error:
        raise ArtifactError(f"{path.name} is not a complete fastdiff artifact: {error}") from error
    return dict(manifest)


def read_report(path: Path) -> Report | None:
    """Return what a machine like this one measured of a saved model; its weights are not read.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ArtifactError
        It is corrupt or has another format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest, _ = _read_manifest(archive, path)
        record = dict(manifest["machines"]).get(fingerprint())
        return None if record is None else Report.from_json(record["report"])
    except FileNotFoundError:
        raise
    except (*_NO_ARCHIVE, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path.name} is not a complete fastdiff artifact: {error}") from error


def _read_manifest(archive: zipfile.ZipFile, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the manifest and the hashes of the other entries, both checked."""
    entries = _check_entries(archive, path)
    manifest = json.loads(archive.read(MANIFEST))
    return manifest, _check_manifest(manifest, entries)


def _check_entries(archive: zipfile.ZipFile, path: Path) -> set[str]:
    """Refuse what a fastdiff archive never has, by the directory alone."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(infos) > _MAX_ENTRIES or len(set(names)) != len(names):
        raise ArtifactError(f"{path.name} has {len(infos)} entries or repeats a name")
    for info in infos:
        if not _NAME.fullmatch(info.filename.removeprefix(_BLOB)):
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


def _copy(source: IO[bytes], path: Path) -> str:
    """Write `source` to `path` and return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as target:
        while block := source.read(1 << 20):
            digest.update(block)
            target.write(block)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _signed(backends: Mapping[str, str], precision: str, hashes: Mapping[str, str]) -> list[object]:
    """Return what the signature of compiled code covers: all that decides what it does where."""
    return [fingerprint(), dict(backends), precision, dict(hashes)]


def _measured_to_json(compiled: Compiled, hashes: Mapping[str, str]) -> dict[str, Any]:
    parts = parts_of(compiled.denoiser, compiled.batch_seconds)
    backends = {str(size): denoiser.backend for size, denoiser in parts.items()}
    precision = compiled.denoiser.precision
    return {
        "backends": backends,
        "precision": precision,
        "signature": sign(_signed(backends, precision, hashes)),
        "batch_seconds": dict(compiled.batch_seconds),
        "report": compiled.report.to_json(),
    }

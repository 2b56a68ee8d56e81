"""Denoisers in ONNX files that somebody exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastdiff.errors import InvalidArgument
from fastdiff.exporting import Metadata, read_metadata
from fastdiff.integrations.conditioning import completed
from fastdiff.networks import Conditioning, Network, OnnxFile, SampleShape
from fastdiff.storing.onnx_check import check_onnx


def from_onnx(
    path: Path,
    inputs: Mapping[str, str] | None = None,
    sample_shape: SampleShape | None = None,
    conditioning: Mapping[str, Conditioning] | None = None,
) -> tuple[Network, dict[str, Any]]:
    """Describe the denoiser in an ONNX file, whoever exported it; the file is not trusted.

    Parameters
    ----------
    path : Path
        Its weights may lie in files beside it.
    inputs : mapping, optional
        The file's names of ``"x"`` and ``"t"``, where they are not the usual ones
        (`fastdiff.networks.onnx_file.ROLES`); of conditioning, to call it otherwise.
    sample_shape : tuple of int, optional
        (C, ...), where the graph leaves it open.
    conditioning : mapping of str to Conditioning, optional
        What the graph does not tell of its inputs: null values, numbers of classes, open sizes.

    Returns
    -------
    network : Network
    schedule : dict
        The schedule's config, where fastdiff wrote the file and knew it.

    Raises
    ------
    InvalidArgument
        There is no such file, or it is no denoiser; see `OnnxFile.read` also.
    ArtifactError
        The file declares more than it holds, reaches for other folders, or needs operators that
        onnxruntime does not bring.
    """
    if not path.is_file():
        raise InvalidArgument(f"there is no file {path}")
    beside = {entry.name for entry in path.parent.iterdir() if entry.is_file()}
    data = check_onnx(path, beside)
    told = _own_metadata(path)
    known = dict(told.conditioning) if told is not None else {}
    given = {**known, **(conditioning or {})}
    shapes = {name: spec.shape for name, spec in given.items() if spec.shape}
    file = replace(
        OnnxFile.read(path, inputs, sample_shape, shapes),
        data=tuple(path.parent / name for name in sorted(data)),
    )
    specs = {
        name: Conditioning(port.row_shape, port.outside) for name, port in file.conditioning.items()
    }
    network = Network(
        module=None,
        sample_shape=file.sample_shape,
        conditioning=completed(path.name, specs, given),
        name=path.stem if told is None else told.name,
        batch=file.batch,
        file=file,
    )
    schedule = told.schedule.to_config() if told is not None and told.schedule is not None else {}
    return network, schedule


def _own_metadata(path: Path) -> Metadata | None:
    """Return what the file says of itself, if fastdiff wrote it."""
    try:
        metadata = read_metadata(path)
    except InvalidArgument:
        return None
    if metadata.kind != "denoiser":
        raise InvalidArgument(
            f"{path.name} is a whole sampler, which onnxruntime runs by itself (docs/onnx.md); "
            "compile the denoiser"
        )
    return metadata

"""What a file of fastdiff says about itself, as one JSON object in its ONNX metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import onnx
import torch
from google.protobuf.message import DecodeError

from fastdiff.errors import InvalidArgument
from fastdiff.networks import Conditioning, SampleShape, checked_sample_shape
from fastdiff.sampling import Schedule

FORMAT = 1
KEY = "fastdiff"
KINDS = ("denoiser", "sampler")
MAX_METADATA_BYTES = 1 << 24

_METADATA_PROPS = onnx.ModelProto.METADATA_PROPS_FIELD_NUMBER
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.int32,
        torch.int64,
        torch.bool,
    )
}


@dataclass(frozen=True)
class Metadata:
    """Description of an exported file.

    Attributes
    ----------
    kind : {"denoiser", "sampler"}
        One evaluation of the network, or the whole loop.
    name : str
        Of the network.
    opset : int
        Of the standard operators.
    sample_shape : tuple of int
        (C, ...).
    conditioning : mapping of str to Conditioning
        The inputs besides x and t, or besides the seed.
    schedule : Schedule or None
        What the network was trained with, prediction type included; None if nobody said.
    steps : int or None
        Network evaluations of a sampler.
    guidance_scale : float or None
        Of a sampler.
    """

    kind: str
    name: str
    opset: int
    sample_shape: SampleShape
    conditioning: Mapping[str, Conditioning]
    schedule: Schedule | None = None
    steps: int | None = None
    guidance_scale: float | None = None

    def to_json(self) -> str:
        """Return the text that goes into the file."""
        fields: dict[str, Any] = {
            "format": FORMAT,
            "kind": self.kind,
            "name": self.name,
            "opset": self.opset,
            "sample_shape": list(self.sample_shape),
            "conditioning": {k: conditioning_to_json(v) for k, v in self.conditioning.items()},
        }
        if self.schedule is not None:
            fields["prediction_type"] = self.schedule.prediction_type
            fields["schedule"] = self.schedule.to_config()
        if self.kind == "sampler":
            fields["steps"], fields["guidance_scale"] = self.steps, self.guidance_scale
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """Read what `to_json` wrote.

        Raises
        ------
        InvalidArgument
            It is not such a text, or of a format that this version does not know.
        """
        try:
            fields = json.loads(text)
            found = fields["format"]
            if found != FORMAT:
                raise InvalidArgument(
                    f"expected metadata of format {FORMAT}, got {found!r}; "
                    "read the file with the version of fastdiff that wrote it"
                )
            return cls._from_fields(fields)
        except InvalidArgument:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InvalidArgument(f"the metadata are damaged: {error!r}") from error

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Metadata:
        kind, shape, schedule = fields["kind"], fields["sample_shape"], fields.get("schedule")
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
        return cls(
            kind=kind,
            name=str(fields["name"]),
            opset=int(fields["opset"]),
            sample_shape=checked_sample_shape(shape),
            conditioning={k: conditioning_from_json(v) for k, v in fields["conditioning"].items()},
            schedule=None if schedule is None else Schedule.from_config(schedule),
            steps=None if kind == "denoiser" else int(fields["steps"]),
            guidance_scale=None if kind == "denoiser" else float(fields["guidance_scale"]),
        )


def read_metadata(path: Path | str) -> Metadata:
    """Read the description of a file that fastdiff exported, without reading its weights.

    Raises
    ------
    InvalidArgument
        The file is no ONNX model, ends before it should, was not written by fastdiff, or says
        something that makes no sense.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidArgument(f"there is no file {path}")
    found = [entry.value for entry in _properties(path) if entry.key == KEY]
    if len(found) != 1:
        raise InvalidArgument(
            f"{path}: expected an ONNX model with one metadata entry {KEY!r}, got {len(found)}; "
            "write it with fastdiff.exporting.export_onnx or export_sampler"
        )
    try:
        return Metadata.from_json(found[0])
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error}") from error


def _properties(path: Path) -> Iterator[onnx.StringStringEntryProto]:
    """Walk the top level of a serialized ModelProto; only metadata entries are read and parsed.

    The protocol buffer encoding is a sequence of (field number << 3 | wire type, content), see
    https://protobuf.dev/programming-guides/encoding/.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            field, wire_type = divmod(_varint(file, path), 8)
            if wire_type == 0:
                _varint(file, path)
                continue
            if wire_type != 2:  # a ModelProto has whole numbers and length-delimited fields only
                raise InvalidArgument(f"{path} is no ONNX model: wire type {wire_type}")
            length, left = _varint(file, path), size - file.tell()
            if length > left:
                raise InvalidArgument(
                    f"{path} is damaged: field {field} declares {length} bytes, {left} are left"
                )
            if field != _METADATA_PROPS:
                file.seek(length, 1)
                continue
            if length > MAX_METADATA_BYTES:
                raise InvalidArgument(
                    f"{path}: a metadata entry of {length} bytes; at most {MAX_METADATA_BYTES}"
                )
            try:
                yield onnx.StringStringEntryProto.FromString(file.read(length))
            except DecodeError as error:
                raise InvalidArgument(f"{path}: a metadata entry is damaged: {error}") from error


def _varint(file: BinaryIO, path: Path) -> int:
    """Read a whole number: seven bits a byte, lowest first, the eighth set on all but the last."""
    number = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return number
    raise InvalidArgument(f"{path} is no ONNX model, or ends too early")


def conditioning_to_json(spec: Conditioning) -> dict[str, Any]:
    """Return plain values, from which `conditioning_from_json` makes an equal description."""
    null = spec.null.tolist() if isinstance(spec.null, torch.Tensor) else spec.null
    return {
        "shape": list(spec.shape),
        "dtype": str(spec.dtype).removeprefix("torch."),
        "null": null,
        "num_classes": spec.num_classes,
        "value_range": spec.value_range,
    }


def conditioning_from_json(fields: Mapping[str, Any]) -> Conditioning:
    """Read what `conditioning_to_json` wrote."""
    null, dtype = fields["null"], _DTYPES[fields["dtype"]]
    given = fields.get("value_range")  # which files of earlier versions lack
    return Conditioning(
        shape=tuple(int(n) for n in fields["shape"]),
        dtype=dtype,
        null=torch.tensor(null, dtype=dtype) if isinstance(null, list) else null,
        num_classes=fields["num_classes"],
        value_range=None if given is None else (float(given[0]), float(given[1])),
    )

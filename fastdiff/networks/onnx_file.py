"""A denoiser that somebody else exported to ONNX: its inputs by role, and what it answers.

`export_onnx` writes such a network in fastdiff's own form (`fastdiff.exporting.rewriting`), which
every backend reads; `OnnxFile.open` runs the file as it is, which is what that is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from fastdiff.errors import (
    InvalidArgument,
    InvalidDtype,
    InvalidShape,
    ModelOutputError,
    UnknownName,
)
from fastdiff.networks.session import first_line, open_session

ROLES: Mapping[str, tuple[str, ...]] = {
    "x": (
        "x", "x_t", "xt", "sample", "latent", "latents", "latent_sample", "noisy_latents",
        "noisy_sample", "noisy_image", "noisy_images", "hidden_states", "image", "images", "input",
    ),
    "t": (
        "t", "time", "times", "timestep", "timesteps", "time_step", "sigma", "sigmas",
        "noise_level", "noise_levels", "noise_labels",
    ),
}  # fmt: skip
"""The names by which x and t are known where the caller does not name them."""

_DTYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
MIN_OPSET = 11
"""The first whose Round rounds times to whole numbers."""

_HALF = (torch.float16, torch.bfloat16)

Evaluate = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Port:
    """An input of the file.

    Attributes
    ----------
    name : str
    element : int
        Its type, of ``onnx.TensorProto``.
    shape : tuple of int
        What it takes, the batch axis as -1; without one for an input that all rows share.
    """

    name: str
    element: int
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Element type in the file."""
        return _DTYPES[self.element]

    @property
    def outside(self) -> torch.dtype:
        """Element type of conditioning outside the file: float32 for a half precision."""
        return torch.float32 if self.dtype in _HALF else self.dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.shape[1:]

    def convert(self, value: Tensor) -> Tensor:
        """Return (B, ...) as the file takes it; floats are rounded to the nearest integers."""
        if value.dtype.is_floating_point and not self.dtype.is_floating_point:
            value = value.round()
        return value.reshape(self.shape).to(self.dtype).contiguous()


@dataclass(frozen=True)
class OnnxFile:
    """The inputs and the output of a denoiser's file.

    Attributes
    ----------
    path : Path
    x, t : Port
    conditioning : mapping of str to Port
        All other inputs, by their names outside.
    output : str
        Name of the prediction.
    batch : int or None
        Rows that a call takes; None for any number.
    opset : int
        Of the standard operators.
    data : tuple of Path
        Files beside it that hold its weights.
    """

    path: Path
    x: Port
    t: Port
    conditioning: Mapping[str, Port]
    output: str
    batch: int | None
    opset: int
    data: tuple[Path, ...] = ()

    @classmethod
    def read(
        cls,
        path: Path,
        inputs: Mapping[str, str] | None = None,
        sample_shape: tuple[int, ...] | None = None,
        row_shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> OnnxFile:
        """Read what the graph says of its inputs; its weights are left alone.

        Parameters
        ----------
        path : Path
        inputs : mapping, optional
            The file's names of the inputs ``"x"`` and ``"t"``, where they are not among `ROLES`,
            and of conditioning that is to have another name outside.
        sample_shape : tuple of int, optional
            (C, ...), where the graph leaves an axis open.
        row_shapes : mapping, optional
            The same for conditioning, by name.

        Raises
        ------
        InvalidArgument
            An input's role cannot be told, or an axis is open that must not be.
        InvalidShape
            x is not (B, C, ...), or the graph contradicts the shapes given.
        InvalidDtype
            An input has a type that no backend takes.
        """
        model = onnx.load(str(path), load_external_data=False)
        opset, graph = _opset(path.name, model), model.graph
        constants = {tensor.name for tensor in graph.initializer}
        values = {value.name: value for value in graph.input if value.name not in constants}
        names = _names(path.name, list(values), inputs or {})
        shapes = {"x": sample_shape, **(row_shapes or {})}
        reader = _Reader(path.name, _dims(values[names["x"]]))
        ports = {own: reader.port(values[name], shapes.get(own)) for own, name in names.items()}
        x, t = ports.pop("x"), ports.pop("t")
        if not 2 <= len(x.shape) <= 5 or not x.dtype.is_floating_point:
            raise InvalidShape(
                f"{path.name}: expected {x.name!r} to be floats of shape (B, C, ...), got "
                f"{x.dtype} of shape {_shown(_dims(values[x.name]))}; inputs= names another"
            )
        if any(size != 1 for size in t.row_shape):
            raise InvalidShape(
                f"{path.name}: expected {t.name!r} to be one time per row, got shape "
                f"{_shown(_dims(values[t.name]))}"
            )
        return cls(
            path, x, t, ports, _prediction(path.name, graph, len(x.shape)), reader.batch, opset
        )

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(C, ...)."""
        return self.x.row_shape

    def open(self) -> Evaluate:
        """Start a plain session; return what maps x, t and conditioning to the prediction.

        The result takes float32 (B, C, ...) and (B,), with B = `batch` where that is fixed, and
        returns float32.
        """
        import onnxruntime

        session = open_session(self.path, self.path.name)

        def evaluate(x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
            given = [(self.x, x), (self.t, t)]
            given += [(port, conditioning[name]) for name, port in self.conditioning.items()]
            feeds, kept = {}, []
            for port, value in given:
                array = port.convert(value)
                kept.append(array)  # the session reads this memory
                bits = array.view(torch.uint16) if port.dtype == torch.bfloat16 else array
                feeds[port.name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
                    bits.numpy(), port.element
                )
            try:
                (result,) = session.run_with_ort_values([self.output], feeds)
            except Exception as error:  # onnxruntime's own types have no base but Exception
                raise ModelOutputError(f"{self.path.name} failed: {first_line(error)}") from error
            if result.element_type() == TensorProto.BFLOAT16:  # which NumPy lacks
                return from_dlpack(result).float()
            return torch.from_numpy(result.numpy()).float()

        return evaluate


class _Reader:
    """Makes ports of a graph's inputs, and learns from them how many rows a call takes.

    Attributes
    ----------
    batch : int or None
        As in `OnnxFile`; 1 once an input was seen that all rows of a call share.
    """

    def __init__(self, file: str, x: Sequence[int | None]) -> None:
        self.file, self.batch = file, x[0] if x else None

    def port(self, value: onnx.ValueInfoProto, row_shape: tuple[int, ...] | None) -> Port:
        dims, element = _dims(value), value.type.tensor_type.elem_type
        if element not in _DTYPES:
            kind = TensorProto.DataType.Name(element)
            raise InvalidDtype(f"{self.file}: input {value.name!r} has the type {kind}")
        if not dims:
            self._share(value.name)
            return Port(value.name, element, ())
        if dims[0] is not None and dims[0] != self.batch:
            self._share(value.name, dims[0])
        shape = self._row_shape(value.name, dims[1:], row_shape)
        return Port(value.name, element, (-1, *shape))

    def _share(self, name: str, rows: int = 1) -> None:
        """Note an input of one value for all rows, which can differ in it: one row a call."""
        if rows != 1 or self.batch not in {None, 1}:
            taken = self.batch or "any number of"
            raise InvalidShape(
                f"{self.file}: input {name!r} has {rows} rows where x has {taken}; expected a "
                "value per row: export the model with the same batch axis on every input"
            )
        self.batch = 1

    def _row_shape(
        self, name: str, dims: Sequence[int | None], given: tuple[int, ...] | None
    ) -> tuple[int, ...]:
        """Return the shape of a row, which `given` completes where the graph leaves axes open."""
        if given is None and None in dims:
            raise InvalidArgument(
                f"{self.file}: input {name!r} leaves its size open, {_shown(dims)} per row; say "
                "it with sample_shape=(C, ...) for x, or in conditioning= with "
                "Conditioning(shape=...)"
            )
        shape = tuple(size for size in dims if size is not None) if given is None else given
        fits = len(shape) == len(dims) and all(
            own in {None, size} for own, size in zip(dims, shape, strict=True)
        )
        if not fits:
            raise InvalidShape(
                f"{self.file}: input {name!r} takes {_shown(dims)} per row, got {shape}"
            )
        return shape


def _opset(file: str, model: onnx.ModelProto) -> int:
    opset = max((e.version for e in model.opset_import if e.domain in {"", "ai.onnx"}), default=0)
    if opset < MIN_OPSET:
        raise InvalidArgument(
            f"{file}: expected opset {MIN_OPSET} or later, got {opset}; export it anew, or use "
            "onnx.version_converter"
        )
    return opset


def _names(file: str, names: list[str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the file's name of each input by what it is called outside, x and t first."""
    for name in given.values():
        if name not in names:
            raise UnknownName(f"input of {file}", name, names)
    own = {}
    for role, usual in ROLES.items():
        free = [name for name in names if name not in given.values()]
        found = [given[role]] if role in given else [n for n in free if n.lower() in usual]
        if len(found) != 1:
            raise InvalidArgument(
                f"{file}: expected one input to be {role} by its name, got "
                f"{', '.join(found) or 'none'}; its inputs are {', '.join(names)}: name them as "
                "inputs={'x': ..., 't': ...}"
            )
        own[role] = found[0]
    renamed = {name: outside for outside, name in given.items()}
    rest = [name for name in names if name not in own.values()]
    conditioning = {renamed.get(name, name): name for name in rest}
    taken = {*own, "output"}.intersection(conditioning)
    if taken or len(conditioning) < len(rest):
        raise InvalidArgument(
            f"{file}: expected inputs= to give each input a name of its own, which is not "
            f"x, t or output; got {', '.join(conditioning)}"
        )
    return own | conditioning


def _prediction(file: str, graph: onnx.GraphProto, rank: int) -> str:
    """Return the output that is the prediction: the only one, or the only one of the rank of x."""
    outputs = list(graph.output)
    images = outputs if len(outputs) == 1 else [o for o in outputs if len(_dims(o)) == rank]
    if len(images) != 1:
        names = ", ".join(output.name for output in outputs)
        raise InvalidArgument(
            f"{file}: expected one output of {rank} axes, as x has, got {len(images)} among "
            f"{names or 'none'}"
        )
    name: str = images[0].name
    return name


def _dims(value: onnx.ValueInfoProto) -> list[int | None]:
    """Return the shape of a value, None for an open axis."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _shown(dims: Sequence[Any]) -> str:
    return f"({', '.join('open' if size is None else str(size) for size in dims)})"

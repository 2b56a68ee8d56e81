"""The description of a trained network that every backend and exporter shares."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fastdiff.errors import (
    InvalidArgument,
    InvalidDtype,
    InvalidShape,
    ModelOutputError,
    Unavailable,
)
from fastdiff.networks.onnx_file import OnnxFile
from fastdiff.networks.session import first_line
from fastdiff.networks.weights import evaluation_copy
from fastdiff.networks.whole_times import WholeTimes
from fastdiff.sampling.checks import plain, require_memory, whole_number


def on_host(value: Any) -> Tensor:
    """Return a tensor, an array or numbers in lists as a tensor on the host, without gradients.

    Python's floats become float64, whatever torch's default is.
    """
    given: Tensor = (
        value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value), device="cpu")
    )
    return given.detach().cpu()


SampleShape: TypeAlias = tuple[int, ...]
"""Of one sample, without the batch: the channels, then up to three sizes."""
MAX_SAMPLE_AXES = 4


@dataclass(frozen=True)
class Conditioning:
    """One named input that a network takes for every image, besides x and t.

    Attributes
    ----------
    shape : tuple of int
        Shape for one image, without the batch axis; ``()`` for a class label.
    dtype : torch.dtype
        Element type that the network expects.
    null : float, int, Tensor or None
        The unconditional value that classifier-free guidance contrasts with (arXiv 2207.12598),
        broadcast to `shape`. None: the network has none, so it cannot be guided, and the input
        must always be given.
    num_classes : int or None
        For labels: what a user may ask for is 0 to ``num_classes - 1``.
    value_range : (float, float) or None
        For floats: the lowest and the highest value that a user may ask for. Backends are compared
        with the model over the whole of it; without one, near zero and in a few places far from it.
    """

    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.int64
    null: float | int | Tensor | None = None
    num_classes: int | None = None
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(plain(size) for size in self.shape))
        object.__setattr__(self, "null", plain(self.null))
        if self.num_classes is not None:
            classes = whole_number("num_classes", self.num_classes, 1)
            object.__setattr__(self, "num_classes", classes)
        if self.value_range is None:
            return
        low, high = self.value_range
        if not (self.dtype.is_floating_point and -math.inf < low < high < math.inf):
            raise InvalidArgument(
                "value_range: expected (lowest, highest) of an input of floats, got "
                f"{self.value_range!r} for {self.dtype}"
            )

    def within_range(self, values: Tensor) -> Tensor:
        """Return floats with those outside of `value_range` moved to its ends."""
        return values if self.value_range is None else values.clamp(*self.value_range)

    def row_bytes(self) -> int:
        """Return the size of one image's value."""
        return math.prod(self.shape) * self.dtype.itemsize

    def null_value(self) -> Tensor:
        """Return the unconditional value as a tensor of `shape`."""
        if self.null is None:
            raise InvalidArgument("this conditioning has no null value")
        return torch.as_tensor(self.null, dtype=self.dtype).broadcast_to(self.shape).contiguous()

    def draw(self, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return floats: uniform over `value_range`, standard normal without one."""
        if self.value_range is None:
            return torch.randn(size, generator=generator, dtype=torch.float32).to(self.dtype)
        low, high = self.value_range
        uniform = torch.rand(size, generator=generator, dtype=torch.float32)
        return (low + (high - low) * uniform).to(self.dtype)

    def check(self, name: str, value: object) -> Tensor:
        """Return `value` as an (n, ...) tensor of `dtype`, or say what is wrong with it.

        A value for one image (of shape `shape`) becomes n = 1.
        """
        try:
            tensor = on_host(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidDtype(f"{name}: expected numbers, got {type(value).__name__}") from error
        whole = not self.dtype.is_floating_point
        if whole and tensor.dtype.is_floating_point and tensor.numel():  # [] is float32 to torch
            raise InvalidDtype(f"{name}: expected integers, got {tensor.dtype}")
        if self.shape == (1,) and tensor.ndim < 2:  # a number per image, as (n,) or alone
            tensor = tensor.reshape(-1, 1)
        if tensor.ndim == len(self.shape):
            tensor = tensor[None]
        if tuple(tensor.shape[1:]) != self.shape:
            expected = ", ".join(["n", *map(str, self.shape)])
            raise InvalidShape(f"{name}: expected shape ({expected}), got {tuple(tensor.shape)}")
        if self.num_classes is not None and tensor.numel():
            low, high = int(tensor.min()), int(tensor.max())
            if low < 0 or high >= self.num_classes:
                bad = low if low < 0 else high
                raise InvalidArgument(
                    f"{name}: expected labels from 0 to {self.num_classes - 1}, got {bad}"
                )
        if self.value_range is not None and tensor.numel():
            least, most = float(tensor.min()), float(tensor.max())
            lowest, highest = self.value_range
            if not (lowest <= least and most <= highest):
                raise InvalidArgument(
                    f"{name}: expected values from {lowest:g} to {highest:g}, the value_range that "
                    f"backends were compared over, got {least if least < lowest else most:g}"
                )
        return tensor.to(self.dtype)


@dataclass(frozen=True)
class Network:
    """A trained denoiser: ``module(x, t, **conditioning)`` for x (B, C, ...) and t (B,).

    Attributes
    ----------
    module : nn.Module
        Returns the shape of x, or (B, 2C, ...) when the second half is a learned variance. It may
        be somebody's own, so only copies of it are run.
    sample_shape : tuple of int
        Of one sample, one to four axes, the channels first: (C, H, W) of a picture, (C, L) of audio
        or actions, (C, F, H, W) of a video, (C,) of a row of a table.
    conditioning : mapping of str to Conditioning
        Named per-image inputs, in the order of the module's signature.
    name : str
        For reports.
    onnx : Path or None
        The network as a file, once it has been exported (`fastdiff.exporting.export_onnx`).
    output_channels : int or None
        C or 2C; None until it is known, see `probed`.
    batch : int or None
        Rows that every call takes, where their number is fixed.
    file : OnnxFile or None
        What the network was given as, where that was somebody's ONNX file.
    samples : tuple of (x, t, conditioning)
        Inputs of a sampling run, from which backends take the range of activations; empty unless
        one needs them (`fastdiff.compiling.calibration`).
    num_train_timesteps : int
        Times that the network knows are below this: that of its schedule.

    The module is None where only a file is known.
    """

    module: nn.Module | None
    sample_shape: SampleShape
    conditioning: Mapping[str, Conditioning] = field(default_factory=dict)
    name: str = "model"
    onnx: Path | None = None
    output_channels: int | None = None
    batch: int | None = None
    file: OnnxFile | None = None
    samples: tuple[tuple[Tensor, Tensor, dict[str, Tensor]], ...] = field(default=(), repr=False)
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample_shape", checked_sample_shape(self.sample_shape))
        if self.module is None or isinstance(self.module, torch.jit.ScriptModule):
            return  # the latter does not tell the names of its arguments
        known = inspect.signature(self.module.forward).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
        missing = [name for name in self.conditioning if name not in known]
        if missing and not takes_any:
            raise InvalidArgument(
                f"{type(self.module).__name__}.forward has no argument {missing[0]!r}; "
                f"it has: {', '.join(known)}"
            )

    def require_module(self) -> nn.Module:
        """Return the module.

        Raises
        ------
        Unavailable
            The network is known by its ONNX file alone.
        """
        if self.module is None:
            raise Unavailable(
                f"{self.name} was loaded from a file and has no torch module; "
                "backends that read ONNX can run it"
            )
        return self.module

    @property
    def guidable(self) -> bool:
        """Whether classifier-free guidance is possible: every conditioning has a null value."""
        return bool(self.conditioning) and all(
            c.null is not None for c in self.conditioning.values()
        )

    def require_memory(self, rows: int) -> None:
        """Refuse a number of rows whose images and conditioning no memory of this machine holds.

        Raises
        ------
        InvalidArgument
            With the sizes.
        """
        image = 4 * math.prod(self.sample_shape)
        given = sum(spec.row_bytes() for spec in self.conditioning.values())
        shape = " x ".join(map(str, self.sample_shape))
        require_memory(f"{rows} images of {shape}", rows * (image + given))

    def example(self, batch: int, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return inputs (x, t, conditioning) of `batch` rows, for tracing and measuring."""
        self.require_memory(batch)
        generator = torch.Generator().manual_seed(seed)
        floats: dict[str, Any] = {"generator": generator, "dtype": torch.float32}
        x = torch.randn(batch, *self.sample_shape, **floats)
        last = 9 * self.num_train_timesteps // 10
        t = torch.linspace(min(1, last), last, batch, dtype=torch.float32)
        inputs = {}
        for name, spec in self.conditioning.items():
            size = (batch, *spec.shape)
            if spec.dtype.is_floating_point:
                inputs[name] = spec.draw(size, generator)
            else:
                high = spec.num_classes or 2
                inputs[name] = torch.randint(high, size, generator=generator, dtype=spec.dtype)
        return x, t, inputs

    def probe(self) -> int:
        """Return the number of output channels, C or 2C; errors are those of `probed`."""
        return self.output_channels or self.probed().probe()

    def probed(self) -> Network:
        """Return this network with what a run of it tells, unless that is known.

        That is the number of output channels, and whether the module fails on any times but whole
        ones: then it is put into `WholeTimes`.

        Raises
        ------
        InvalidArgument
            The module does not run on its inputs, or cannot be copied.
        ModelOutputError
            It returned no tensor, or one of another shape.
        """
        if self.output_channels is not None:
            return self
        rows = self.batch or 2
        x, t, conditioning = self.example(rows)
        if self.file is not None:
            output: object = self.file.open()(x, t, conditioning)
            return replace(self, output_channels=self._channels(output, rows))
        module = self.require_module()
        copied = evaluation_copy(module).float()
        try:
            output = self._run(copied, x, t, conditioning)
        except InvalidArgument:  # the reason may be the times
            last = self.num_train_timesteps - 1
            t = torch.linspace(last, 0, rows, dtype=torch.float32)
            output = self._run(WholeTimes(copied), x, t, conditioning)
            module = WholeTimes(module)
        return replace(self, module=module, output_channels=self._channels(output, rows))

    def _channels(self, output: object, rows: int) -> int:
        """Check the shape of an output and return its number of channels."""
        channels, *rest = self.sample_shape
        if not isinstance(output, Tensor):
            raise ModelOutputError(
                f"expected {self.name} to return a tensor, got {type(output).__name__}; "
                "wrap the module so that forward returns the prediction alone"
            )
        got = tuple(output.shape)
        if got not in {(rows, channels, *rest), (rows, 2 * channels, *rest)}:
            expected, given = (
                f"({', '.join(map(str, ['B', count, *rest]))})"
                for count in (f"{channels} or {2 * channels}", channels)
            )
            raise ModelOutputError(
                f"expected {self.name} to return {expected} for x of {given}, got {got} for "
                f"B = {rows}"
            )
        return got[1]

    def _run(
        self, module: nn.Module, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]
    ) -> object:
        """Return what `module` answers on its own device."""
        device = next(module.parameters(), x).device
        inputs = {"x": x, "t": t, **conditioning}
        moved = {name: value.to(device) for name, value in inputs.items()}
        try:
            with torch.inference_mode():
                return module(moved.pop("x"), moved.pop("t"), **moved)
        except Exception as error:
            given = ", ".join(f"{k} {tuple(v.shape)} {v.dtype}" for k, v in inputs.items())
            raise InvalidArgument(
                f"{self.name} does not run on {given}, with times up to {float(t.max()):g}, where "
                f"num_train_timesteps is {self.num_train_timesteps}: {first_line(error)}"
            ) from error


def picture_shape(what: str, shape: SampleShape) -> tuple[int, int, int]:
    """Return (C, H, W).

    Raises
    ------
    InvalidShape
        `what`, which takes pictures alone, would get something else.
    """
    if len(shape) != 3:
        raise InvalidShape(f"{what}: expected pictures, (C, H, W), got samples of {shape}")
    return shape[0], shape[1], shape[2]


def checked_sample_shape(shape: Any) -> SampleShape:
    """Return a sample's shape as a tuple.

    Raises
    ------
    InvalidShape
        It has not one to four axes.
    InvalidArgument
        A size is no whole number, or less than 1.
    """
    sizes = tuple(shape) if isinstance(shape, Iterable) and not isinstance(shape, str) else ()
    if not 1 <= len(sizes) <= MAX_SAMPLE_AXES:
        raise InvalidShape(
            f"sample_shape: expected one to {MAX_SAMPLE_AXES} sizes, such as (C, H, W) or (C, L), "
            f"got {shape!r}"
        )
    return tuple(whole_number("sample_shape", size, 1) for size in sizes)

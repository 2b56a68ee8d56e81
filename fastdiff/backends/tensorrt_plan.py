"""Building of serialized TensorRT engines ("plans"), for TensorRT and TensorRT-RTX alike.

Networks are strongly typed: the precision is that of the types in the ONNX file, and TensorRT
adds none of its own. TF32 is off, so float32 is float32.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fastdiff.backends.base import onnx_path
from fastdiff.errors import InvalidArgument, Unavailable
from fastdiff.exporting.half import export_half
from fastdiff.networks import Network

#: Batch sizes (smallest, tuned for, largest) of the optimisation profiles. One row has a profile
#: of its own because kernels that suit it suit nothing else.
PROFILES = ((1, 1, 1), (2, 4, 8), (9, 16, 32), (33, 64, 128))


@dataclass(frozen=True)
class PlanOptions:
    """How a plan is built.

    Attributes
    ----------
    profiles : tuple of (int, int, int)
        Batch sizes (smallest, tuned for, largest), ascending and without gaps from 1.
    refit : bool
        Keep the weights replaceable, at some cost in speed.
    compute_capabilities : tuple of str
        TensorRT-RTX only: GPUs to build for, such as ``("SM89", "SM120")``; empty leaves the
        choice to the library.
    """

    profiles: tuple[tuple[int, int, int], ...] = PROFILES
    refit: bool = False
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        begin = 1
        if not self.profiles:
            raise InvalidArgument("profiles: expected at least one range of batch sizes, got none")
        for low, best, high in self.profiles:
            if not begin == low <= best <= high:
                raise InvalidArgument(
                    "profiles: expected (smallest, tuned for, largest) batch sizes, each profile "
                    f"beginning one after the last, got {self.profiles}"
                )
            begin = high + 1

    def profile_of(self, batch: int) -> int:
        """Return the index of the profile that holds `batch`."""
        for index, (_, _, high) in enumerate(self.profiles):
            if batch <= high:
                return index
        raise InvalidArgument(
            f"the TensorRT plan takes up to {self.profiles[-1][2]} rows per call, got {batch}"
        )


def build_tensorrt_plan(
    trt: ModuleType,
    network: Network,
    precision: str,
    options: PlanOptions,
    timings: bytes | None = None,
) -> tuple[bytes, bytes | None]:
    """Build a serialized engine for `network`.

    Parameters
    ----------
    trt : module
        ``tensorrt`` or ``tensorrt_rtx``; only the latter builds on machines with no GPU.
    network : Network
        With its float32 file in ``network.onnx``; lower precisions are exported here.
    precision : str
    options : PlanOptions
    timings : bytes or None
        Kernel timings of earlier builds, to save measuring them again; empty before the first.
        None for TensorRT-RTX, which measures none.

    Returns
    -------
    plan : bytes
    timings : bytes or None
        Those that were given, and those of this build.

    Raises
    ------
    Unavailable
        TensorRT cannot run the network, or cannot build here; the message carries its reason.
    """
    log = _logger(trt)
    try:
        builder = trt.Builder(log)
    except (RuntimeError, TypeError) as error:  # TypeError: the bindings got a null pointer
        raise Unavailable(f"{trt.__name__} has no builder here: {log.reason(error)}") from error
    definition = read_network(trt, builder, network, precision, log)
    config = _config(trt, builder, definition, options)
    cache = None
    if timings is not None:
        cache = config.create_timing_cache(timings)
        config.set_timing_cache(cache, ignore_mismatch=True)
    plan = builder.build_serialized_network(definition, config)
    if plan is None:
        raise Unavailable(f"{trt.__name__} built no backend for {network.name}: {log.reason()}")
    return bytes(plan), None if cache is None else bytes(cache.serialize())


def read_network(trt: ModuleType, builder: Any, network: Network, precision: str, log: Any) -> Any:
    """Return TensorRT's own definition of `network`, with the types of `precision`."""
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    definition = builder.create_network(flag)
    with tempfile.TemporaryDirectory(prefix="fastdiff-") as folder:
        if precision == "float32":
            path = onnx_path(network, trt.__name__)
        else:
            path = export_half(network, precision, Path(folder) / "denoiser.onnx")
        parser = trt.OnnxParser(definition, log)
        if not parser.parse_from_file(str(path)):
            errors = [parser.get_error(i) for i in range(parser.num_errors)]
            reasons = "; ".join(f"{e.node_operator()}: {e.desc()}" for e in errors)
            raise Unavailable(f"{trt.__name__} cannot read {network.name}: {reasons}")
    for index in range(definition.num_layers):
        layer = definition.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            # Without a fused kernel, such as for float32, attention may be its parts.
            layer.__class__ = trt.IAttentionInputLayer  # how the bindings downcast
            layer.attention.decomposable = True
    return definition


def _config(trt: ModuleType, builder: Any, definition: Any, options: PlanOptions) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    for batches in options.profiles:
        profile = builder.create_optimization_profile()
        for index in range(definition.num_inputs):
            tensor = definition.get_input(index)
            profile.set_shape(tensor.name, *((b, *tuple(tensor.shape)[1:]) for b in batches))
        config.add_optimization_profile(profile)
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, name in enumerate(options.compute_capabilities):
            config.set_compute_capability(_capability(trt, name), index)
    return config


def _capability(trt: ModuleType, name: str) -> Any:
    known = trt.ComputeCapability.__members__
    if name not in known:
        raise Unavailable(
            f"{trt.__name__} {trt.__version__} does not build for {name}; "
            f"it builds for: {', '.join(k for k in known if k.startswith('SM'))}"
        )
    return known[name]


def _logger(trt: ModuleType) -> Any:
    """Return a logger that stays silent and remembers the first error, for our exceptions."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.first = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR and not self.first:
                self.first = message.strip()

        def reason(self, error: object = "no reason given") -> str:
            return self.first or str(error)

    return Log()

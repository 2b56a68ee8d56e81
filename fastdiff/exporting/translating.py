"""Translation of a torch module to an ONNX program."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from fastdiff.errors import InvalidArgument
from fastdiff.exporting.attention import onnx_translations
from fastdiff.networks.network import Network
from fastdiff.networks.session import first_line

if TYPE_CHECKING:
    import onnx_ir

OPSET = 23
"""The first with the Attention operator (docs/onnx.md has the measurements behind it)."""

_SIZES = ("frames", "height", "width")  # the axes after the channels; "width" is a length too
_LOGGERS = ("torch.onnx", "torch.fx.experimental.symbolic_shapes", "onnxscript", "onnx_ir")


class DenoiserForward(torch.nn.Module):
    """Positional arguments for the exporter, keywords for the module."""

    def __init__(self, module: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Take x, t and the conditioning in the order of its names."""
        x, t, *rest = inputs
        check: Any = torch._check
        for value in (t, *rest):
            # Else the exporter takes each batch axis for itself; len() would fix it.
            check(value.shape[0] == x.shape[0])
        with _WholeMasks():
            output: torch.Tensor = self.module(x, t, **dict(zip(self.names, rest, strict=True)))
        return output


class _WholeMasks(TorchFunctionMode):
    """Gives attention a mask for each query, which onnxruntime's Attention does not broadcast."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        mask = kwargs.get("attn_mask")
        if func is scaled_dot_product_attention and mask is not None:
            query, key = args[:2] if args else (kwargs["query"], kwargs["key"])
            rest = mask.shape[:-2]
            kwargs["attn_mask"] = mask.expand(*rest, query.shape[-2], key.shape[-2])
        return func(*args, **kwargs)


def translate(
    network: Network, module: DenoiserForward, dynamic_size: bool
) -> torch.onnx.ONNXProgram:
    """Export `module`, in float32 on the CPU, with an open batch axis unless it is fixed.

    Raises
    ------
    InvalidArgument
        torch cannot export it; the message carries its reason.
    """
    x, t, conditioning = network.example(network.batch or 2)
    arguments = (x, t, *conditioning.values())
    # Named axes, unlike torch.export.Dim, do not insist on a range: diffusers compares the batch
    # with 64 to lay memory out, which would have the whole graph traced again for up to 63 rows.
    rows = {} if network.batch else {0: "batch"}
    sizes = _SIZES[-len(network.sample_shape[1:]) :] if len(network.sample_shape) > 1 else ()
    sample = {**rows, **dict(enumerate(sizes, 2))} if dynamic_size else rows
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                arguments,
                input_names=["x", "t", *conditioning],
                output_names=["output"],
                dynamic_shapes={"inputs": (sample, *[rows] * (len(arguments) - 1))},
                opset_version=OPSET,
                custom_translation_table={
                    **onnx_translations(),
                    torch.ops.aten.group_norm.default: _group_norm,
                    torch.ops.aten.squeeze.dim: _squeeze,
                },
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # torch raises many types here; all mean the same to a caller
            raise InvalidArgument(
                f"{network.name} cannot be exported to ONNX: {first_line(error)}; "
                "backend='eager' runs it without export"
            ) from error
    if program is None:
        raise InvalidArgument(f"{network.name} cannot be exported to ONNX: torch returned nothing")
    tell_names_apart(program.model)
    _strip(program.model)
    return program


def tell_names_apart(model: onnx_ir.Model) -> None:
    """Rename values that are called like others; inputs and outputs keep their names.

    The exporter calls a value like the operator that made it: ``weight.t()`` becomes ``t``, as the
    network's times are called.
    """
    from onnx_ir.passes.common import NameFixPass

    NameFixPass()(model)


def _group_norm(
    x: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """aten::group_norm by InstanceNormalization.

    onnxruntime has no CPU kernel for GroupNormalization and runs its many-node definition instead,
    which takes up to twice the time (docs/onnx.md).
    """
    from onnxscript import opset23

    op: Any = opset23  # annotated for eager values, called with traced ones
    groups = op.Reshape(x, op.Constant(value_ints=[0, num_groups, -1]))
    ones, zeros = (op.Constant(value_floats=[value] * num_groups) for value in (1.0, 0.0))
    normed = op.InstanceNormalization(groups, ones, zeros, epsilon=eps)
    y = op.Reshape(normed, op.Shape(x))
    per_channel = op.Constant(value_ints=[-1, *[1] * (len(x.shape) - 2)])
    if weight is not None:
        y = op.Mul(y, op.Reshape(weight, per_channel))
    if bias is not None:
        y = op.Add(y, op.Reshape(bias, per_channel))
    return y


def _squeeze(x: Any, dim: int) -> Any:
    """aten::squeeze.dim, which leaves an axis of another size than 1 as it is; ONNX refuses it."""
    from onnxscript import opset23

    op: Any = opset23
    if not len(x.shape) or x.shape[dim] != 1:
        return op.Identity(x)
    return op.Squeeze(x, op.Constant(value_ints=[dim]))


def _strip(model: onnx_ir.Model) -> None:
    """Remove the exporter's notes: source lines and paths of this machine, for every node."""
    from onnx_ir.traversal import RecursiveGraphIterator

    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress prints, warnings and logging; errors still raise."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

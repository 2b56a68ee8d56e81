"""What a caller knows of a network's inputs, put together with what the network tells."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace

import torch

from fastdiff.errors import InvalidArgument
from fastdiff.networks import Conditioning, Network, WholeTimes
from fastdiff.sampler import Sampler

_WHOLE = (torch.int64, torch.int32)


def completed(
    name: str, specs: Mapping[str, Conditioning], given: Mapping[str, Conditioning]
) -> dict[str, Conditioning]:
    """Add to what a graph says of its inputs what the caller knows: null values, classes, ranges.

    Raises
    ------
    InvalidArgument
        The caller describes an input that the graph has not.
    """
    unknown = [own for own in given if own not in specs]
    if unknown:
        takes = ", ".join(specs) or "none"
        raise InvalidArgument(f"{name} has no input {unknown[0]!r}; its conditioning: {takes}")
    both = {own: (spec, given.get(own, Conditioning())) for own, spec in specs.items()}
    return {
        own: replace(
            spec, null=said.null, num_classes=said.num_classes, value_range=said.value_range
        )
        for own, (spec, said) in both.items()
    }


def with_conditioning(
    network: Network,
    num_classes: int | None,
    null_class: int | None,
    conditioning: Mapping[str, Conditioning] | None,
) -> Network:
    """Add what the caller says of the model's inputs to what its config says.

    Raises
    ------
    InvalidArgument
        It does not fit, or an input is called like an argument of `Sampler.sample`.
    """
    inputs = {**network.conditioning, **(conditioning or {})}
    times = inputs.pop("t", None)
    if num_classes is not None:
        labels = inputs.get("class_labels", Conditioning())
        inputs["class_labels"] = replace(labels, num_classes=num_classes)
    if null_class is not None:
        if "class_labels" not in inputs:
            raise InvalidArgument("null_class= needs num_classes= as well")
        inputs["class_labels"] = replace(inputs["class_labels"], null=null_class)
    taken = inputs.keys() & inspect.signature(Sampler.sample).parameters.keys()
    if taken:
        raise InvalidArgument(
            f"the input {min(taken)!r} is called like an argument of Sampler.sample; rename it: "
            "inputs={'another': ...} for an ONNX file, a wrapper for a module"
        )
    network = replace(network, conditioning=inputs)
    return network if times is None else _with_whole_times(network, times)


def _with_whole_times(network: Network, times: Conditioning) -> Network:
    """Let the network have t in an integer type, as the caller describes it."""
    if times.dtype not in _WHOLE or times.shape:
        raise InvalidArgument(
            "conditioning['t'] says that the network takes whole times: expected "
            f"Conditioning(dtype=torch.int64) or int32, got {times.dtype} of shape {times.shape}; "
            "leave it out for times in float32"
        )
    return replace(network, module=WholeTimes(network.require_module(), times.dtype))

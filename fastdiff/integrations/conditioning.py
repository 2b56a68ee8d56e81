"""What a caller knows of a network's inputs, put together with what the network tells."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace

from fastdiff.errors import InvalidArgument
from fastdiff.exporting import Conditioning, Network
from fastdiff.runtime import Sampler


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
    return replace(network, conditioning=inputs)

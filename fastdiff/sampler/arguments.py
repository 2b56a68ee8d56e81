"""The arguments of `Sampler.sample`, checked at the door."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fastdiff.engine.requests import GuidedSteps
from fastdiff.errors import InvalidArgument, InvalidDtype, InvalidShape
from fastdiff.networks import Network, on_host
from fastdiff.sampling import PackedTable
from fastdiff.sampling.checks import plain, whole_number

_MAX_SEED = (1 << 64) - 1


def conditioning(network: Network, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's named inputs, (n or 1, ...) each; what was left out has a null value."""
    inputs = _named_inputs(network, given, "sample() got {!r}")
    for name, spec in network.conditioning.items():
        if name not in inputs and spec.null is None:
            raise InvalidArgument(f"this model needs {name}=, one value per image")
    return inputs


def negative(network: Network, given: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """Return what the unconditional branch gets, (n or 1, ...) each."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidDtype(
            f"negative: expected a mapping of input names to values, got {type(given).__name__}"
        )
    return _named_inputs(network, given, "negative names {!r}")


def _named_inputs(network: Network, given: Mapping[str, Any], said: str) -> dict[str, Tensor]:
    known = network.conditioning
    for name in given:
        if name not in known:
            takes = ", ".join(known) or "none"
            raise InvalidArgument(f"{said.format(name)}; this model's conditioning: {takes}")
    return {k: known[k].check(k, v) for k, v in given.items() if v is not None}


def tensor(name: str, value: Any, shape: tuple[int, ...], *, is_mask: bool = False) -> Tensor:
    """Return (n, *shape) float32 on the host, finite.

    A mask may have one channel instead of C. It may be of whole numbers too, which no image is:
    pixels from 0 to 255 would be taken for data in [-1, 1].
    """
    try:
        result = on_host(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidDtype(f"{name}: expected a tensor, got {type(value).__name__}") from error
    channels = {1, shape[0]} if is_mask else {shape[0]}
    got = tuple(result.shape)
    if len(got) != len(shape) + 1 or got[1] not in channels or got[2:] != shape[1:]:
        counts = " or ".join(map(str, sorted(channels)))
        expected = f"({', '.join(map(str, ['n', counts, *shape[1:]]))})"
        raise InvalidShape(f"{name}: expected {expected}, got {got}")
    if not (is_mask or result.dtype.is_floating_point):
        raise InvalidDtype(
            f"{name}: expected floating numbers in the model's range, got {result.dtype}; "
            "pixels from 0 to 255 are image / 127.5 - 1 in the range [-1, 1]"
        )
    result = result.float()
    if not bool(result.isfinite().all()):
        raise InvalidArgument(f"{name}: expected finite numbers, got NaN or infinity")
    return result


def count(n: int | None, values: Mapping[str, Tensor], seed: Any, latents: Tensor | None) -> int:
    """Return the number of images on which all arguments agree.

    Parameters
    ----------
    n : int or None
        What was asked for.
    values : mapping of str to Tensor
        Arguments by name, with one entry per image or one for all.
    seed : int, sequence of int or None
    latents : Tensor or None
        With one entry per image.
    """
    lengths = {name: len(value) for name, value in values.items() if len(value) != 1}
    if latents is not None:
        lengths["latents"] = len(latents)
    own_seeds = _per_image(seed)
    if own_seeds is not None:
        lengths["seed"] = len(own_seeds)
    if n is not None:
        lengths["n"] = whole_number("n", n, 0)
    if not lengths:
        if not values:
            raise InvalidArgument("say how many images: sample(16), or give conditioning")
        return 1
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InvalidShape(f"the arguments disagree on the number of images: {said}")
    return next(iter(lengths.values()))


def for_all(values: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    """Return `values` with one entry for each of n images."""
    return {name: value.expand(n, *value.shape[1:]).contiguous() for name, value in values.items()}


def seeds(seed: int | Sequence[int] | None, n: int) -> npt.NDArray[np.uint64]:
    """Return the seed of each image, (n,)."""
    if seed is None:
        seed = secrets.randbits(64)
    values = _per_image(seed)
    if values is None:
        return np.full(n, _seed(seed), np.uint64)
    return np.array([_seed(value) for value in values], np.uint64)


def image_numbers(seed: int | Sequence[int] | None, n: int) -> npt.NDArray[np.uint64]:
    """Return 0, 1, ... under a common seed; 0 for all with seeds of their own, (n,)."""
    own_seeds = _per_image(seed) is not None
    return np.zeros(n, np.uint64) if own_seeds else np.arange(n, dtype=np.uint64)


def _per_image(seed: Any) -> list[Any] | None:
    """Return seeds given one per image as a list (any sequence, array or tensor); else None."""
    seed = plain(seed)
    return list(seed) if hasattr(seed, "__len__") else None


def _seed(value: Any) -> int:
    """Return `value` as an int if it is a seed, of whatever integer type."""
    value = plain(value)
    try:
        return whole_number("seed", value, 0, _MAX_SEED)
    except InvalidArgument:
        raise InvalidArgument(
            f"seed: expected an integer from 0 to 2^64 - 1, got {value!r}"
        ) from None


def guidance_scales(
    network: Network, scale: float | Sequence[float], n: int, negative: Mapping[str, Tensor]
) -> npt.NDArray[np.float32]:
    """Return the guidance scale of each image, (n,)."""
    try:
        scales = on_host(scale).float().numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidDtype(f"guidance_scale: expected numbers, got {scale!r}") from error
    if scales.ndim > 1 or (scales.ndim == 1 and len(scales) != n):
        raise InvalidShape(
            f"guidance_scale: expected a number or {n} of them, got shape {scales.shape}"
        )
    if not np.isfinite(scales).all():
        raise InvalidArgument(f"guidance_scale: expected finite numbers, got {scale}")
    known = network.conditioning
    has_branch = all(known[name].null is not None or name in negative for name in known)
    if (scales != 1).any() and not (known and has_branch):
        raise InvalidArgument(
            "guidance_scale other than 1 needs a conditional model with a null value: "
            "pass null_class= to fastdiff.compile, or negative= values to sample"
        )
    return np.array(np.broadcast_to(scales, n))


def guided_steps(interval: tuple[float, float] | None, table: PackedTable) -> GuidedSteps | None:
    """Return the steps whose noise level sigma / alpha lies in (low, high]; None for all."""
    if interval is None:
        return None
    try:
        low, high = (float(bound) for bound in interval)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"guidance_interval: expected a pair (low, high), got {interval!r}"
        ) from error
    if not 0 <= low < high:
        raise InvalidArgument(
            "guidance_interval: expected noise levels sigma / alpha with 0 <= low < high, "
            f"got ({low:g}, {high:g})"
        )
    alpha, sigma = table.levels[:-1].T.astype(np.float64)
    with np.errstate(divide="ignore"):
        level = sigma / alpha
    return GuidedSteps((low < level) & (level <= high))

"""Starting from an image, and keeping a part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastdiff.engine.requests import Blend, Start
from fastdiff.errors import InvalidArgument
from fastdiff.networks import Network
from fastdiff.sampler import arguments
from fastdiff.sampling import PackedTable
from fastdiff.sampling.checks import check_number

_STRENGTH = 0.8  # diffusers' img2img; with a mask everything is painted anew


@dataclass(frozen=True, eq=False)
class Edit:
    """The arguments `image`, `strength` and `mask` of `Sampler.sample`, checked.

    Attributes
    ----------
    image : Tensor
        (n or 1, C, ...) float32.
    mask : Tensor or None
        (n or 1, C, ...) float32 in [0, 1].
    strength : float
        In (0, 1].
    """

    image: Tensor
    mask: Tensor | None
    strength: float

    @classmethod
    def check(cls, network: Network, image: Any, mask: Any, strength: float | None) -> Edit | None:
        """Return the edit, or None without an image."""
        if image is None:
            for name, value in (("mask", mask), ("strength", strength)):
                if value is not None:
                    raise InvalidArgument(f"{name} needs image=, the data to start from")
            return None
        shape = network.sample_shape
        image = arguments.tensor("image", image, shape)
        if mask is not None:
            mask = arguments.tensor("mask", mask, shape, is_mask=True)
            if mask.numel() and not 0 <= float(mask.min()) <= float(mask.max()) <= 1:
                raise InvalidArgument("mask: expected values from 0 (keep) to 1 (paint anew)")
            mask = mask.expand(-1, *shape)
        if strength is None:
            strength = _STRENGTH if mask is None else 1.0
        return cls(image, mask, check_number("strength", strength, 0.0, 1.0))

    @property
    def values(self) -> dict[str, Tensor]:
        """The tensors by their argument's name."""
        return {"image": self.image} | ({} if self.mask is None else {"mask": self.mask})

    def skipped(self, steps: int) -> int:
        """Return how many of the first of `steps` steps are left out, as in diffusers' img2img."""
        taken = min(int(steps * self.strength), steps)
        if taken == 0:
            raise less_than_one_step(self.strength, steps)
        return steps - taken

    def start(self, table: PackedTable, n: int) -> Start | None:
        """Return where x starts; None for noise alone, where a mask paints at full strength.

        The image does not leak through the first level then, as in diffusers' inpainting.
        """
        if self.mask is not None and self.strength == 1:
            return None
        alpha, sigma = (float(value) for value in table.levels[0])
        return Start(_each(self.image, n), alpha, sigma)

    def blend(self, n: int) -> Blend | None:
        """Return what is kept; None without a mask."""
        if self.mask is None:
            return None
        return Blend(_each(self.image, n), _each(self.mask, n))


def _each(value: Tensor, n: int) -> Tensor:
    """Return (n or 1, ...) as (n, ...)."""
    return value.expand(n, *value.shape[1:])


def less_than_one_step(strength: float, steps: int) -> InvalidArgument:
    """Return the refusal of a strength that leaves no step."""
    return InvalidArgument(
        f"strength: {strength:g} of {steps} steps is less than one step; "
        f"give more than 1/{steps}, or more steps"
    )

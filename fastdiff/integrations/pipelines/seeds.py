"""The seeds of the noise of steps, from the generators of a call."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastdiff.errors import InvalidDtype

_END = 2**63 - 1


class Seeds:
    """One seed for all images of a call, or one for each, as its generators are given.

    A seed is the number that a generator would give next when the call begins, before the pipeline
    draws latents from it. So it does not depend on how many images the call has. Where the seeds
    are used, the generators then move on by one number each: what they give next is another.

    Parameters
    ----------
    generator : torch.Generator, list of torch.Generator or None
        None is torch's default one, as in diffusers.

    Attributes
    ----------
    value : int or list of int
        As `Sampler.sample` takes them.

    Raises
    ------
    InvalidDtype
        Something else than a generator is given.
    """

    def __init__(self, generator: torch.Generator | list[torch.Generator] | None) -> None:
        if generator is None:
            generator = torch.default_generator
        given = generator if isinstance(generator, list) else [generator]
        for one in given:
            if not isinstance(one, torch.Generator):
                raise InvalidDtype(
                    "generator: expected a torch.Generator, a list of them or None, "
                    f"got {type(one).__name__}"
                )
        copies = {one: one.clone_state() for one in given}
        seeds = _draw([copies[one] for one in given])
        self.value: int | list[int] = seeds if isinstance(generator, list) else seeds[0]
        self._generators = given

    def move_on(self) -> None:
        """Advance the generators."""
        _draw(self._generators)


def _draw(generators: Sequence[torch.Generator]) -> list[int]:
    """Return the next number of each generator; one that is there twice gives two."""
    return [int(torch.randint(_END, (), generator=g, device=g.device)) for g in generators]

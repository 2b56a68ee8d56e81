"""Several backends for one network, each where it is the fastest.

One backend is rarely the best for one row and for sixteen (docs/backends.md has figures). All
compute in one precision, and each passed a certificate of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from fastdiff.backends.base import Denoiser
from fastdiff.errors import InvalidArgument


class BySize(Denoiser):
    """Chooses among denoisers by the number of rows.

    Parameters
    ----------
    denoisers : mapping of int to Denoiser
        By rows per call, as measured. A call of a size between is made as the next larger one is.

    Raises
    ------
    InvalidArgument
        They differ in precision, in the types of their tensors, in their device, or in whether
        their calls can be captured.
    """

    def __init__(self, denoisers: Mapping[int, Denoiser]) -> None:
        self.by_rows = dict(sorted(denoisers.items()))
        kinds = {
            (*kind_of(denoiser), denoiser.output_channels) for denoiser in self.by_rows.values()
        }
        if len(kinds) != 1:
            raise InvalidArgument(f"expected denoisers of one kind, got {sorted(map(str, kinds))}")
        first = next(iter(self.by_rows.values()))
        self.backend = ", ".join(dict.fromkeys(d.backend for d in self.by_rows.values()))
        self.precision = first.precision
        self.input_dtype, self.output_dtype = first.input_dtype, first.output_dtype
        self.output_channels = first.output_channels
        self.device = first.device
        self.eager_because = first.eager_because
        self.own_threads = all(denoiser.own_threads for denoiser in self.by_rows.values())

    @property
    def version(self) -> tuple[object, ...]:
        """What changes when that of a part does."""
        return tuple(denoiser.version for denoiser in self.by_rows.values())

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        sizes = list(self.by_rows)
        size = next((size for size in sizes if size >= len(x)), sizes[-1])
        return self.by_rows[size].bind(x, t, conditioning, out)

    def trim(self, batches: Collection[int]) -> None:
        """Let each backend go of what it holds for sizes that are not its own."""
        for denoiser, own in self._own(batches):
            denoiser.trim(own)

    def save(self, folder: Path, batches: Collection[int]) -> None:
        """Let each backend write what it compiled for the sizes that are its own."""
        for denoiser, own in self._own(batches):
            denoiser.save(folder, own)

    def _own(self, batches: Collection[int]) -> Iterator[tuple[Denoiser, list[int]]]:
        """Return each backend's denoiser with those of `batches` that it serves."""
        for denoiser in dict.fromkeys(self.by_rows.values()):
            own = [size for size, other in self.by_rows.items() if other is denoiser]
            yield denoiser, [size for size in own if size in batches]


def kind_of(denoiser: Denoiser) -> tuple[object, ...]:
    """Return what denoisers must agree in to serve one sampler."""
    capturable = denoiser.eager_because is None
    types = denoiser.input_dtype, denoiser.output_dtype
    return denoiser.precision, *types, denoiser.device, capturable


def by_size(denoisers: Mapping[int, Denoiser]) -> Denoiser:
    """Return one denoiser for all: itself where only one is named."""
    different = list(dict.fromkeys(denoisers.values()))
    return different[0] if len(different) == 1 else BySize(denoisers)


def parts_of(denoiser: Denoiser, sizes: Collection[int]) -> dict[int, Denoiser]:
    """Return which backend's denoiser serves each of `sizes`."""
    return denoiser.by_rows if isinstance(denoiser, BySize) else dict.fromkeys(sizes, denoiser)

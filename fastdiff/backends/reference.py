"""What a network answers by itself, which every backend's answers are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from fastdiff.backends.base import Denoiser
from fastdiff.backends.eager import EAGER
from fastdiff.backends.fixed_batch import FixedBatch
from fastdiff.networks import Network, OnnxFile


class GivenFile(Denoiser):
    """Somebody's ONNX file in a plain session of onnxruntime, untouched.

    Parameters
    ----------
    file : OnnxFile
    output_channels : int
    """

    backend, precision = "onnxruntime, the given file", "float32"

    def __init__(self, file: OnnxFile, output_channels: int) -> None:
        self.output_channels = output_channels
        self._evaluate = file.open()

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        return lambda: out.copy_(self._evaluate(x, t, conditioning))


def reference_denoiser(network: Network) -> Denoiser:
    """Return the plainest way to evaluate `network`: its module in eager float32, or its file.

    Raises
    ------
    Unavailable
        The network has neither.
    """
    denoiser: Denoiser
    if network.file is not None:
        denoiser = GivenFile(network.file, network.probe())
    else:
        denoiser = EAGER.build(network, "float32")
    return denoiser if network.batch is None else FixedBatch(denoiser, network.batch)

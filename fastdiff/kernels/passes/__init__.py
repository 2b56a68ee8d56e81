"""The passes that some rows need around a step: `adapt` before it, and `blend` after it.

Both are written with torch operators on the memory that the step kernel uses, including the
records. They never wait for the device, so a CUDA graph can capture them. Every element is computed
by single additions, multiplications, divisions and square roots in a fixed order, so a row has the
same bits in any batch and on any device.
"""

from fastdiff.kernels.passes.adapt import adapt, adaptation
from fastdiff.kernels.passes.blend import Kept, blend

__all__ = ["Kept", "adapt", "adaptation", "blend"]

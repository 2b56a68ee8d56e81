"""What some rows need around a step: `adapt` before it, `blend` after it.

Both are torch operators on the memory that the step kernel uses, the records included, and wait for
nothing: a CUDA graph captures them. Every element comes from single additions, multiplications,
divisions and square roots in a fixed order, so a row has the same bits in any batch and on any
device.
"""

from fastdiff.kernels.passes.adapt import adapt, adaptation
from fastdiff.kernels.passes.blend import Kept, blend

__all__ = ["Kept", "adapt", "adaptation", "blend"]

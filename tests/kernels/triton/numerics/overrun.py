"""A kernel that forgets its mask, run on guarded memory: the process must not survive."""

import torch
import triton
import triton.language as tl
from guarded import call_guarded


@triton.jit
def copy(source, target, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(target + i, tl.load(source + i), mask=i < 3)


if __name__ == "__main__":
    three = torch.zeros(3)
    call_guarded(lambda a, b: copy[(1,)](a, b, BLOCK=4), three, three, at_end=True)

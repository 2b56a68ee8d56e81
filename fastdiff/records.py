"""The two records that cross from Python to the kernels; docs/contracts.md says what they mean.

Their layout is that of the structs in csrc/include/fastdiff/step.h.
"""

import numpy as np

TABLE_ROW = np.dtype(
    [
        ("x", np.float32, 8),
        ("h", np.float32, 8),
        ("p", np.float32),
        ("q", np.float32),
        ("clip", np.float32),
        ("c_in_next", np.float32),
        ("t", np.float32),
        ("w", np.float32),
        ("dst", np.int32),
        ("pad", np.int32),
    ]
)
"""One solver step, 96 bytes."""

BATCH_ROW = np.dtype(
    [
        ("seed", np.uint64),
        ("image", np.uint64),
        ("table_row", np.int32),
        ("slot", np.int32),
        ("draw", np.uint32),
        ("guidance", np.float32),
        ("cond", np.int32),
        ("uncond", np.int32),
    ]
)
"""One row of a batch, 40 bytes."""

"""The device code of :mod:`.triton`.

A program computes one chunk of one row of the batch. It reads its records from device memory, so
rows may be at any step of any solver. What a row does not use is loaded with a false mask. Such a
load reads nothing, and it needs no branch, so that all loads can be in flight together.
"""

from __future__ import annotations

from fastdiff.kernels.noise import TAG_STEP
from fastdiff.kernels.noise.triton import normals, polynomial
from fastdiff.kernels.step import reference
from fastdiff.kernels.triton_module import tl, triton
from fastdiff.records import BATCH_ROW, TABLE_ROW

X, D, M, Z = (tl.constexpr(column) for column in (0, 5, 6, 7))

# Byte offsets in the records.
TABLE_BYTES = tl.constexpr(TABLE_ROW.itemsize)
X_ROW, H_ROW, P, Q, CLIP, C_IN_NEXT, T, W, DST = (
    tl.constexpr(TABLE_ROW.fields[name][1])  # type: ignore[index]
    for name in ("x", "h", "p", "q", "clip", "c_in_next", "t", "w", "dst")
)
ROW_BYTES = tl.constexpr(BATCH_ROW.itemsize)
SEED, IMAGE, TABLE_INDEX, SLOT, DRAW, GUIDANCE, COND, UNCOND = (
    tl.constexpr(BATCH_ROW.fields[name][1])  # type: ignore[index]
    for name in ("seed", "image", "table_row", "slot", "draw", "guidance", "cond", "uncond")
)

STEP_TAG = tl.constexpr(TAG_STEP)
EXP_LOW, EXP_HIGH = tl.constexpr(reference.EXP_LOW), tl.constexpr(reference.EXP_HIGH)
EXP = tl.constexpr(tuple(float(c) for c in reference.EXP_COEFFICIENTS))
LOG2_E, LN2_HIGH, LN2_LOW = (
    tl.constexpr(float(c)) for c in (reference.LOG2_E, reference.LN2_HIGH, reference.LN2_LOW)
)
ROUND = tl.constexpr(1.5 * 2**23)  # adding it leaves a rounded integer in the low bits
ROUND_BITS = tl.constexpr(0x4B400000)


@triton.jit
def field(record, offset: tl.constexpr, dtype: tl.constexpr):
    """Load one field of a record, which is the same for all threads."""
    return tl.load((record + offset).to(tl.pointer_type(dtype)))


@triton.jit
def coefficient(combination, column: tl.constexpr):
    """Load one coefficient of ``x`` or ``h`` of a table row."""
    return field(combination, 4 * column, tl.float32)


@triton.jit
def count_if(used, n):
    """Return how many elements of an array to access: ``i < count_if(...)`` is the mask."""
    return tl.where(used, n, 0)


@triton.jit
def clamp(value, low, high):
    """Limit a value as the C++ kernels do. NaN stays NaN."""
    value = tl.where(value < low, low, value)
    return tl.where(value > high, high, value)


@triton.jit
def is_finite(value):
    """Return whether a value is neither infinite nor NaN."""
    return tl.abs(value) < float("inf")


@triton.jit
def exponential(x):
    """Return e^x for x clamped to [-87, 88], as in csrc/include/fastdiff/exponential.h."""
    x = clamp(x, EXP_LOW, EXP_HIGH)
    shifted = x * LOG2_E + ROUND
    n = shifted - ROUND
    r = x - n * LN2_HIGH
    r = r - n * LN2_LOW
    mantissa = (polynomial(r, EXP, 4) * (r * r) + r) + 1.0
    exponent = shifted.to(tl.uint32, bitcast=True) - ROUND_BITS
    return mantissa * ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def guided(output, output_elements, row, i, n):
    """Return the guided output of the network, m_u + g (m_c - m_u), or m_c without guidance."""
    cond = output + field(row, COND, tl.int32).to(tl.int64) * output_elements
    m = tl.load(cond + i, i < n, 0.0).to(tl.float32)
    index = field(row, UNCOND, tl.int32)
    uncond = output + index.to(tl.int64) * output_elements
    m_u = tl.load(uncond + i, i < count_if(index >= 0, n), 0.0).to(tl.float32)
    return tl.where(index >= 0, m_u + field(row, GUIDANCE, tl.float32) * (m - m_u), m)


@triton.jit
def step_noise(row, chunk, BLOCK: tl.constexpr):
    """Return the noise of one chunk of a row."""
    quad = chunk * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    seed, image = field(row, SEED, tl.int64), field(row, IMAGE, tl.int64)
    draw = field(row, DRAW, tl.uint32)
    tag = tl.full((), STEP_TAG, tl.uint32)
    return normals(seed, image, draw, tag, quad.to(tl.uint32), tl.zeros_like(tag))


@triton.jit
def add_term(total, counts, c, value):
    """Add a term to a sum, or skip it."""
    return tl.where(counts, total + c * value, total)


@triton.jit
def write_flag(flags, arrivals, b, chunks, bad):
    """Write the flag of a row when the last of its chunks arrives, and reset its counter to 0.

    The low half of the counter counts chunks, and the high half those that are not finite.
    """
    before = tl.atomic_add(arrivals + b, (bad.to(tl.int64) << 32) + 1, sem="relaxed")
    if (before & 0xFFFFFFFF) == chunks - 1:
        tl.store(flags + b, ((before >> 32) + bad > 0).to(tl.uint8))
        tl.store(arrivals + b, tl.zeros_like(before))


@triton.jit
def step_kernel(
    table,
    rows,
    state,
    output,
    flags,
    arrivals,
    history,
    next_input,
    denoised,
    n: tl.int32,
    output_elements: tl.int64,
    plane: tl.int64,
    HISTORY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Take the step for one chunk of one row. ``plane`` is S n, the elements of a history slot."""
    chunks = tl.cdiv(n, BLOCK)
    b = tl.program_id(0) // chunks
    chunk = tl.program_id(0) % chunks
    row = rows + b * ROW_BYTES
    slot = field(row, SLOT, tl.int32)
    if slot < 0:
        return
    entry = table + field(row, TABLE_INDEX, tl.int32).to(tl.int64) * TABLE_BYTES
    cx, ch = entry + X_ROW, entry + H_ROW
    i = chunk * BLOCK + tl.arange(0, BLOCK)
    live = i < n
    at = slot.to(tl.int64) * n + i

    x = tl.load(state + at, live, 0.0)
    m = guided(output, output_elements, row, i, n)
    clip = field(entry, CLIP, tl.float32)
    d = clamp(field(entry, P, tl.float32) * x + field(entry, Q, tl.float32) * m, -clip, clip)
    finite = is_finite(m)

    xs = coefficient(cx, X) * x + coefficient(cx, D) * d
    hs = coefficient(ch, X) * x + coefficient(ch, D) * d
    x_m, h_m = coefficient(cx, M), coefficient(ch, M)
    xs = add_term(xs, (x_m != 0) | (h_m != 0), x_m, m)
    hs = add_term(hs, (x_m != 0) | (h_m != 0), h_m, m)
    for j in tl.static_range(1, HISTORY + 1):
        x_j, h_j = coefficient(cx, j), coefficient(ch, j)
        counts = (x_j != 0) | (h_j != 0)
        past = tl.load(history + (j - 1) * plane + at, i < count_if(counts, n), 0.0)
        xs = add_term(xs, counts, x_j, past)
        hs = add_term(hs, counts, h_j, past)
    x_z, h_z = coefficient(cx, Z), coefficient(ch, Z)
    if (x_z != 0) | (h_z != 0):
        z = step_noise(row, chunk, BLOCK)
        w = field(entry, W, tl.float32)
        if w != 0:
            cond = output + field(row, COND, tl.int32).to(tl.int64) * output_elements
            v = tl.load(cond + n + i, live, 0.0).to(tl.float32)
            finite = finite & is_finite(v)
            z = exponential(w * v) * z
        xs = xs + x_z * z
        hs = hs + h_z * z

    tl.store(state + at, xs, live)
    if HISTORY > 0:
        dst = field(entry, DST, tl.int32)
        tl.store(history + (dst - 1) * plane + at, hs, i < count_if(dst > 0, n))
    if denoised is not None:
        tl.store(denoised + at, d, live)
    if next_input is not None:
        scaled = field(entry, C_IN_NEXT, tl.float32) * xs
        tl.store(next_input + at, scaled.to(next_input.dtype.element_ty), live)
    finite = finite & is_finite(xs)
    write_flag(flags, arrivals, b, chunks, tl.max((live & ~finite).to(tl.int32), 0))


@triton.jit
def gather_kernel(table, rows, next_input, x, t, n: tl.int32, BLOCK: tl.constexpr):
    """Copy one chunk of a row to its conditional and unconditional rows of x."""
    chunks = tl.cdiv(n, BLOCK)
    chunk = tl.program_id(0) % chunks
    row = rows + tl.program_id(0) // chunks * ROW_BYTES
    slot = field(row, SLOT, tl.int32)
    if slot < 0:
        return
    i = chunk * BLOCK + tl.arange(0, BLOCK)
    live = i < n
    cond, uncond = field(row, COND, tl.int32), field(row, UNCOND, tl.int32)
    values = tl.load(next_input + slot.to(tl.int64) * n + i, live)
    tl.store(x + cond.to(tl.int64) * n + i, values, live)
    tl.store(x + uncond.to(tl.int64) * n + i, values, i < count_if(uncond >= 0, n))
    if chunk == 0:
        entry = table + field(row, TABLE_INDEX, tl.int32).to(tl.int64) * TABLE_BYTES
        time = field(entry, T, tl.float32)
        tl.store(t + cond, time)
        tl.store(t + uncond, time, uncond >= 0)

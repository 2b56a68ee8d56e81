"""The CUDA kernels: launchers of addresses in device memory, which the callers have checked.

``stream`` is a ``cudaStream_t``. Element types are those of :mod:`fastdiff.kernels.cuda_module`.
Every launcher queues one kernel on the current device and raises Unavailable if that fails.
"""

device: str
"""The kind of torch device whose memory the kernels take: "cuda"."""

def status() -> str | None:
    """Why nothing can be launched in this process, in the CUDA runtime's words; None if it can."""

def step(
    table: int,
    rows: int,
    row_count: int,
    state: int,
    history: int,
    slots: int,
    elements: int,
    output: int,
    output_elements: int,
    next_input: int,
    denoised: int,
    flags: int,
    tickets: int,
    output_type: int,
    next_type: int,
    stream: int,
) -> None: ...
def gather(
    table: int,
    rows: int,
    row_count: int,
    next_input: int,
    x: int,
    t: int,
    elements: int,
    element_bytes: int,
    stream: int,
) -> None: ...
def fill_normal(
    out: int,
    seeds: int,
    images: int,
    row_count: int,
    elements: int,
    first: int,
    draw: int,
    tag: int,
    scale: float,
    stream: int,
) -> None: ...
def attention(
    q: int,
    k: int,
    v: int,
    out: int,
    q_strides: tuple[int, int, int],
    k_strides: tuple[int, int, int],
    v_strides: tuple[int, int, int],
    out_strides: tuple[int, int, int],
    batches: int,
    heads: int,
    queries: int,
    keys: int,
    head_size: int,
    scale: float,
    type: int,
    stream: int,
) -> None: ...

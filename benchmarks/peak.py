"""The most float32 operations that this machine does in a second: ``python -m benchmarks.peak``.

Fused multiply-adds that wait for nothing but each other, a dozen chains of them in registers, on
all threads: what no matrix product can exceed.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

_SOURCE = """
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define CHAINS 12  // the latency of an operation times how many begin in a cycle is 8 to 10

typedef float Lanes __attribute__((vector_size(4 * LANES)));
const int operations = 2 * LANES * CHAINS;  // of a round

float run(long rounds, float factor, float term) {
  Lanes sums[CHAINS];
  for (int i = 0; i < CHAINS; ++i) sums[i] = (Lanes){} + (float)i;  // alike, they would be one
  for (long n = 0; n < rounds; ++n)
    for (int i = 0; i < CHAINS; ++i) sums[i] = sums[i] * factor + term;
  float total = 0;
  for (int i = 0; i < CHAINS; ++i) total += sums[i][0];
  return total;
}
"""
_ROUNDS = 4_000_000  # some tens of milliseconds


class Peak:
    """The best rate that was seen; a machine with other users shows it only now and then.

    Needs the C compiler that builds the package.

    Attributes
    ----------
    threads : int
    flops : float
        Multiplications and additions in a second, of all threads.
    """

    def __init__(self, threads: int) -> None:
        self.threads, self.flops = threads, 0.0
        with tempfile.TemporaryDirectory(prefix="fastdiff-") as folder:
            source, library = Path(folder, "peak.c"), Path(folder, "peak.so")
            source.write_text(_SOURCE)
            flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
            subprocess.run(["cc", *flags, source, "-o", library], check=True)  # noqa: S607
            self._library = ctypes.CDLL(str(library))
        self._library.run.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float]
        operations = ctypes.c_int.in_dll(self._library, "operations").value
        self._work = threads * _ROUNDS * operations
        self._pool = ThreadPoolExecutor(threads)  # ctypes lets go of the interpreter

    def measure(self, turns: int = 3) -> None:
        """Look again, for some tens of milliseconds a turn."""
        for _ in range(turns):
            begin = time.perf_counter()
            list(self._pool.map(self._run, range(self.threads)))
            self.flops = max(self.flops, self._work / (time.perf_counter() - begin))

    def _run(self, thread: int) -> None:
        self._library.run(_ROUNDS, 0.5, 1.0)


if __name__ == "__main__":
    peak = Peak(torch.get_num_threads())
    peak.measure(turns=30)
    print(f"{peak.flops / 1e9:.0f} GFLOP/s on {peak.threads} threads")

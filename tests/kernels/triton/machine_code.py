"""What a compiled Triton kernel is made of, read with the tools in Triton's wheel."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

from triton import knobs


@dataclass(frozen=True)
class NvidiaCode:
    """One kernel for one architecture.

    Attributes
    ----------
    registers : int
        Of each thread.
    local_bytes : int
        Stack and spilled registers of each thread.
    shared_bytes : int
    ptx, sass : str
    """

    registers: int
    local_bytes: int
    shared_bytes: int
    ptx: str
    sass: str

    def count(self, pattern: str) -> int:
        """Instructions of the machine code that match."""
        return len(re.findall(rf"^\s*/\*\w+\*/.*\b{pattern}", self.sass, re.MULTILINE))


def nvidia_code(kernel: Any) -> NvidiaCode:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _output(knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        sass = _output(knobs.nvidia.nvdisasm.path, "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found, usage
    registers, stack, local = (int(value) for value in found.groups())
    return NvidiaCode(registers, stack + local, kernel.metadata.shared, kernel.asm["ptx"], sass)


def amd_spills(kernel: Any) -> int:
    """Spilled registers and bytes of scratch memory."""
    counts = re.findall(
        r"\.(?:[sv]gpr_spill_count|private_segment_fixed_size): +(\d+)", kernel.asm["amdgcn"]
    )
    assert len(counts) == 3, counts
    return sum(int(count) for count in counts)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

"""What a compiled GPU kernel may use, read from its machine code: no GPU is needed.

A :class:`Contract` is a line of ``tests/kernels/contracts.py``. :func:`check` reads a cubin and the
PTX that it came from, whoever compiled them, and names everything that breaks the contract::

    resources = check(cubin, ptx, "fill_normal", "sm_90", CONTRACTS["cuda fill_normal"])
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

INSTALL = "pip install nvidia-cuda-nvcc nvidia-cuda-cuobjdump (or triton, which holds cuobjdump)"


@dataclass(frozen=True)
class Contract:
    """Bounds that hold for every entry function of a kernel on one architecture.

    Attributes
    ----------
    registers : int
        At most this many for each thread. Spills and stack frames are never allowed.
    shared_bytes : int
        Exactly this much static shared memory.
    wide_loads, wide_stores : int
        At least this many instructions that move 128 bits or more of global memory.
    tensor_core : str
        How its tensor-core instructions start, such as ``"HMMA.16816.F32"``; empty for none at all.
    fma : bool
        Whether PTX may fuse a multiplication with an addition; never in kernels that promise bits.
    """

    registers: int
    shared_bytes: int = 0
    wide_loads: int = 0
    wide_stores: int = 0
    tensor_core: str = ""
    fma: bool = False


@dataclass(frozen=True)
class Resources:
    """What one entry function uses."""

    function: str
    arch: str
    registers: int
    stack_bytes: int
    shared_bytes: int
    spills: int
    wide_loads: int
    wide_stores: int
    tensor_core: frozenset[str] = field(default_factory=frozenset)
    ptx_fma: int = 0
    """fma instructions in the PTX; in machine code a correctly rounded square root needs some."""


class ContractError(AssertionError):
    """A kernel breaks its contract."""


def find_tool(name: str) -> Path | None:
    """A program of the CUDA toolkit: on the path, in nvidia's packages, or in Triton's."""
    if found := shutil.which(name):
        return Path(found)
    folders = ["/usr/local/cuda/bin"]
    for package, inside in (("nvidia", "cu13/bin"), ("triton", "backends/nvidia/bin")):
        spec = importlib.util.find_spec(package)
        folders += (
            [f"{place}/{inside}" for place in (spec.submodule_search_locations or ())]
            if spec
            else []
        )
    return next(
        (path for path in (Path(folder) / name for folder in folders) if path.exists()), None
    )


def missing_tools() -> str | None:
    """Why machine code cannot be read on this machine, or None."""
    return None if find_tool("cuobjdump") else f"no cuobjdump on this machine: {INSTALL}"


def check(cubin: Path, ptx: str, kernel: str, arch: str, contract: Contract) -> list[Resources]:
    """Compare every entry function whose name contains ``kernel`` with its contract.

    Parameters
    ----------
    cubin : Path
        Machine code of one architecture.
    ptx : str
        The PTX text that it was made from.
    kernel : str
        Part of the (mangled) names of the functions.
    arch : str
        Such as ``"sm_90"``.
    contract : Contract
        What holds for each of them.

    Returns
    -------
    list of Resources
        What each function uses.

    Raises
    ------
    ContractError
        If no function has that name or one breaks the contract; the message lists how.
    """
    resources = read_resources(cubin, ptx, kernel, arch)
    if not resources:
        raise ContractError(f"{cubin.name} holds no function named {kernel!r}")
    broken = [
        f"{used.function} on {arch}: {problem}"
        for used in resources
        for problem in violations(used, contract)
    ]
    if broken:
        raise ContractError("\n".join(broken))
    _note(kernel, resources)
    return resources


def _note(kernel: str, resources: list[Resources]) -> None:
    """Append what was found to the file that ``benchmarks/evidence.py`` makes its tables of."""
    log = os.environ.get("FASTDIFF_GPU_EVIDENCE")
    if log is None:
        return
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" (", 1)[0]
    with Path(log).open("a") as file:
        for used in resources:
            record = asdict(used) | {"tensor_core": sorted(used.tensor_core)}
            file.write(json.dumps({"test": test, "kernel": kernel, **record}) + "\n")


def violations(used: Resources, contract: Contract) -> list[str]:
    """What breaks the contract, in words."""
    kinds = sorted(used.tensor_core)
    wanted = contract.tensor_core
    broken = {
        f"{used.spills} spill instructions, expected none": used.spills,
        f"a stack frame of {used.stack_bytes} bytes, expected none": used.stack_bytes,
        f"{used.registers} registers, expected at most {contract.registers}": used.registers
        > contract.registers,
        f"{used.shared_bytes} bytes of static shared memory, expected {contract.shared_bytes}": (
            used.shared_bytes != contract.shared_bytes
        ),
        f"{used.wide_loads} loads of 128 bits, expected at least {contract.wide_loads}": (
            used.wide_loads < contract.wide_loads
        ),
        f"{used.wide_stores} stores of 128 bits, expected at least {contract.wide_stores}": (
            used.wide_stores < contract.wide_stores
        ),
        f"{used.ptx_fma} fused multiply-adds in its PTX, expected none": used.ptx_fma
        and not contract.fma,
        f"tensor-core instructions {kinds or 'none'}, expected {wanted or 'none'}": (
            any(not kind.startswith(wanted) for kind in kinds) if wanted else kinds
        )
        or bool(wanted) > bool(kinds),
    }
    return [problem for problem, is_broken in broken.items() if is_broken]


def read_resources(cubin: Path, ptx: str, kernel: str, arch: str) -> list[Resources]:
    """What each entry function whose name contains ``kernel`` uses."""
    usage, code = _dump(cubin, "-res-usage"), _dump(cubin, "-sass")
    instructions = _split(code, r"^\s*Function : (\S+)$")
    entries = _split(ptx, r"^(?:\.visible |\.weak )?\.entry (\w+)")
    result = []
    for function, line in re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", usage):
        if kernel not in function:
            continue
        counts = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
        opcodes = re.findall(
            r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?(\S+)", instructions[function], re.M
        )
        result.append(
            Resources(
                function=function,
                arch=arch,
                registers=counts["REG"],
                stack_bytes=counts["STACK"],
                shared_bytes=counts["SHARED"],
                spills=_count(opcodes, r"(LDL|STL)\b"),
                wide_loads=_count(opcodes, r"(LDG|LDGSTS)\.\S*(128|256)"),
                wide_stores=_count(opcodes, r"STG\.\S*(128|256)"),
                tensor_core=frozenset(op for op in opcodes if re.match(r"\w+MMA\.", op)),
                ptx_fma=len(re.findall(r"\bfma\.", entries[function])),
            )
        )
    return result


def _count(opcodes: list[str], pattern: str) -> int:
    return sum(re.match(pattern, opcode) is not None for opcode in opcodes)


def _split(text: str, heading: str) -> dict[str, str]:
    """The text after each heading, by the name that the heading holds."""
    _, *parts = re.split(heading, text, flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@lru_cache(maxsize=64)
def _dump(cubin: Path, option: str) -> str:
    tool = find_tool("cuobjdump")
    if tool is None:
        raise RuntimeError(missing_tools())
    command = [str(tool), option, str(cubin)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout

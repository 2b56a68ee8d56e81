"""The files of Python that a class is made of, as far as no version number names them."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

NAMED = {*sys.stdlib_module_names, "torch", "numpy"}
"""Packages whose content the versions of this machine name."""

_INSTALLED = {"site-packages", "dist-packages", Path(sysconfig.get_path("stdlib")).name}


def is_named(module: str) -> bool:
    """Whether the Python module belongs to a package of `NAMED`."""
    return module.split(".")[0] in NAMED


def is_installed(path: Path) -> bool:
    """Whether `path` belongs to an installed package, which nobody edits."""
    return not _INSTALLED.isdisjoint(path.resolve().parts)


def own_imports(module: str, path: Path) -> Iterator[tuple[str, Path]]:
    """Return the module and file of all that a file imports, but for fastdiff and installed ones.

    The text alone is asked, so that it does not matter what has been imported so far.

    Parameters
    ----------
    module : str
        What the file is called as a module.
    path : Path
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*parts, *filter(None, [node.module])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            known = is_named(name) or name.split(".")[0] == "fastdiff"
            found = None if known else _find(name)
            if found is not None and not is_installed(found):
                yield name, found


def _find(module: str) -> Path | None:
    """Return where a module lies on Python's path, without importing anything."""
    relative = Path(*module.split("."))
    for folder in map(Path, sys.path):
        for path in (folder / relative.with_suffix(".py"), folder / relative / "__init__.py"):
            if path.is_file():
                return path
    return None

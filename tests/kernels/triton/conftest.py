"""Triton's interpreter and its compiler do not share a process.

``interpreted/`` is collected only where ``TRITON_INTERPRET=1`` was set from the start; otherwise
``test_interpreted.py`` runs it in a process of its own. The other files compile.
"""

import pytest

from fastdiff.kernels import triton_module

if reason := triton_module.missing():
    pytest.skip(reason, allow_module_level=True)

collect_ignore = ["test_binaries.py"] if triton_module.interpreting() else ["interpreted"]

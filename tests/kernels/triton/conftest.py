"""Triton's interpreter and its compiler do not share a process.

``numerics/`` is collected where its kernels can run: in a process that has ``TRITON_INTERPRET=1``
from the start, or on a GPU. ``test_interpreter.py`` starts such a process, so that a plain
``pytest`` runs everything everywhere. The other files compile.
"""

from fastdiff.kernels import triton_module

collect_ignore = []
if triton_module.missing():  # test_interpreter.py says so
    collect_ignore += ["test_binaries.py", "numerics"]
elif triton_module.interpreting():
    collect_ignore += ["test_binaries.py", "test_interpreter.py"]
elif triton_module.status():
    collect_ignore += ["numerics"]

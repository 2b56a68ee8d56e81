"""``numerics/`` is collected where its kernels can run: in Triton's interpreter, or on a GPU.

``test_triton.py`` starts the interpreter, in a process of its own.
"""

from fastdiff.kernels import triton_module

collect_ignore = []
if triton_module.interpreting():
    collect_ignore += ["test_binaries.py", "test_triton.py"]
elif triton_module.missing() or triton_module.status():
    collect_ignore += ["numerics"]
if triton_module.missing():
    collect_ignore += ["test_binaries.py"]

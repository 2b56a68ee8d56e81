"""The arithmetic of sampling, which has the same bits on every device.

``noise``
    Counter-based standard normals: :func:`normal`, :func:`fill_normal`.
``step``
    One fused solver step over a batch whose rows may be at different steps.

Each operation has a plain NumPy ``reference`` beside its compiled form. :func:`cpu_levels` says
which instruction levels the compiled form can use on this CPU, and why it cannot use the others.
"""

from fastdiff.kernels.cpu import active_level, cpu_levels, use_level

__all__ = ["active_level", "cpu_levels", "use_level"]

"""The CPU: NumPy's BLAS and numba kernels on a session's own threads, one file per operator family."""

from .device import CpuDevice, CpuQueue

__all__ = ["CpuDevice", "CpuQueue"]

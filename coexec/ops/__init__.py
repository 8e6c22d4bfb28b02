"""What each operator means: where its output may be cut, what input a piece needs, how much work it is, and a NumPy reference.

Planner, executor, cost model and tests use `split_axes` and `input_regions`; nothing else knows what a convolution is.
"""

from .base import Op, SplitAxis, Work, axis_names, find_op, is_native, native_ops, op_for, register

__all__ = ["Op", "SplitAxis", "Work", "axis_names", "find_op", "is_native", "native_ops", "op_for", "register"]

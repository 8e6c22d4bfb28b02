"""Drives memory out of every cache of every core, so that whoever uses it next finds it far away, whatever ran before."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import types
from numba.core.extending import intrinsic

from .jit import kernel, prepare

#: The smallest cache line of any core: of larger ones, each is driven out several times.
LINE = 64
#: What drives a line out, by the machine: x86-64 (since its beginnings, and a way that does not wait for the line before), and ARM's v8, where the
#: system lets programs do it, as Linux does.
_X86, _ARM = platform.machine().lower() in ("x86_64", "amd64"), platform.machine().lower() in ("aarch64", "arm64")
POSSIBLE = _X86 or _ARM


def _x86_intrinsic() -> str:
    return "llvm.x86.clflushopt" if binding.get_host_cpu_features().get("clflushopt") else "llvm.x86.sse2.clflush"


@intrinsic
def _flush(typingctx: Any, address: Any) -> Any:
    """Drives the line at an address out of the caches, sooner or later."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        where, nothing = builder.inttoptr(args[0], ir.IntType(8).as_pointer()), ir.VoidType()
        if _X86:
            builder.call(builder.module.declare_intrinsic(_x86_intrinsic(), (), ir.FunctionType(nothing, [where.type])), [where])
        else:
            builder.asm(ir.FunctionType(nothing, [where.type]), "dc civac, $0", "r,~{memory}", [where], True)
        return context.get_dummy_value()
    return types.none(types.int64), codegen


@intrinsic
def _done(typingctx: Any) -> Any:
    """Waits until all that was driven out is."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if _X86:
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.mfence", (), ir.FunctionType(ir.VoidType(), [])), [])
        else:
            builder.asm(ir.FunctionType(ir.VoidType(), []), "dsb ish", "~{memory}", [], True)
        return context.get_dummy_value()
    return types.none(), codegen


@kernel
def _flush_lines(begin, end):
    for address in range(begin, end, 64):  # LINE
        _flush(address)
    _done()


def flush(memory: np.ndarray) -> Callable[[], object] | None:
    """An action that drives a contiguous array's memory out of the caches, as `jit.prepare` and `native.call_of` know it; None on machines where
    no program can. What lies there stays. The array must outlive the action.
    """
    if not POSSIBLE:
        return None
    begin = memory.ctypes.data
    task = partial(_flush_lines, begin // LINE * LINE, begin + memory.nbytes)
    prepare(task)
    return task

"""The control word of an x86 core's floating-point unit, of the calling thread. Nothing is compiled on other cores, which have no such word."""

from __future__ import annotations

from functools import partial

from llvmlite import ir
from numba.core import types
from numba.core.extending import intrinsic

from .denormals import POSSIBLE
from .jit import kernel, prepare

_I8, _I32 = ir.IntType(8), ir.IntType(32)


@intrinsic
def _exchange(typingctx, more, word):
    """Sets the word to `word`, or, where that is negative, to what it was with the bits of `more`; what it was before."""
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer()])
        place = builder.alloca(_I32)
        at = builder.bitcast(place, _I8.as_pointer())
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse.stmxcsr", (), kind), [at])
        before = builder.load(place)
        more, word = (builder.trunc(a, _I32) for a in args)
        builder.store(builder.select(builder.icmp_signed("<", word, ir.Constant(_I32, 0)), builder.or_(before, more), word), place)
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse.ldmxcsr", (), kind), [at])
        return builder.zext(before, ir.IntType(64))
    return types.int64(types.int64, types.int64), codegen


@kernel
def exchange(more, word):
    """`_exchange`, callable from Python."""
    return _exchange(more, word)


if POSSIBLE:
    prepare(partial(exchange, 0, 0))  # also where the cache cannot be written

"""Work that was bound beforehand, done in one go without Python: a list of C calls, of words to set and of words to wait for.

Between two kernels of a small model Python and numba's dispatcher take as long as some kernels do. Compiled kernels and OpenCL's functions
are C functions, and a list of their addresses and arguments is all that a run needs.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.dispatcher import Dispatcher
from numba.core.extending import intrinsic

from ..base import Call
from .jit import kernel

_I32, _I64, _F64 = ir.IntType(32), ir.IntType(64), ir.DoubleType()
#: How many integers a call passes: the smallest of these that is enough. The callee does not look at those it has no parameter for.
INTEGERS = (12, 24, 48, 72, 96)
#: All of them travel in registers; any C function that takes at most so many finds its own.
FLOATS = 8
#: What a row of the list is, beyond calls: set a word, wait for a word, note the time.
SET, AWAIT, STAMP = len(INTEGERS), len(INTEGERS) + 1, len(INTEGERS) + 2
ROW = 3

#: Machines whose C functions take integers and floats independently of each other, each in eight bytes where they lie on the stack.
POSSIBLE = sys.platform == "linux" and sys.maxsize > 2**32 and platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")


def call_of(task: Callable) -> Call | None:
    """A bound kernel (compiled by `jit.prepare`) as a call of the function that numba made of it; None where it is anything else.

    numba's own convention: where the result and an error's description go, then the arguments, an array as seven words.
    """
    function = getattr(task, "func", None)
    if not POSSIBLE or not isinstance(function, Dispatcher) or task.keywords:
        return None
    returned = np.zeros(4, np.int64)
    integers, floats = [returned.ctypes.data, returned[2:].ctypes.data], []
    for a in task.args:
        if isinstance(a, np.ndarray) and a.ndim == 1:
            integers += (0, 0, a.size, a.itemsize, a.ctypes.data, a.shape[0], a.strides[0])
        elif isinstance(a, (np.float32, float)):
            floats.append(a)
        elif isinstance(a, (int, np.integer)):
            integers.append(int(a))
        else:
            return None
    made = function.overloads.get(tuple(function.typeof_pyval(a) for a in task.args))
    if made is None or len(integers) > INTEGERS[-1] or len(floats) > FLOATS or made.signature.return_type != types.none:
        return None
    address = made.library.get_pointer_to_function(made.fndesc.llvm_func_name)
    return Call(address, tuple(integers), tuple(floats), (task, returned)) if address else None


def row_of(call: Call) -> tuple[tuple[int, int, int], np.ndarray]:
    """The list's row for a call, and the memory that it points to."""
    bucket = next(b for b, most in enumerate(INTEGERS) if most >= len(call.integers))
    block = np.zeros(1 + FLOATS + INTEGERS[bucket], np.int64)
    block[0] = call.function
    for at, value in enumerate(call.floats, 1):
        block[at:at + 1].view(np.float32 if isinstance(value, np.float32) else np.float64)[0] = value
    block[1 + FLOATS:1 + FLOATS + len(call.integers)] = np.array([i % 2**64 for i in call.integers], np.uint64).view(np.int64)
    return (bucket, block.ctypes.data, 0), block


def fits(call: Call) -> bool:
    """Whether a row can hold that call."""
    return POSSIBLE and len(call.integers) <= INTEGERS[-1] and len(call.floats) <= FLOATS


def _caller(count: int) -> Any:
    @intrinsic
    def call(typingctx, block):
        """Calls block[0] with FLOATS floats and `count` integers, which follow it; what it returns."""
        def codegen(context, builder, signature, args):
            def word(i, kind):
                return builder.load(builder.gep(builder.inttoptr(args[0], kind.as_pointer()), [ir.Constant(_I64, i)]))

            kind = ir.FunctionType(_I32, [_I64] * count + [_F64] * FLOATS)
            function = builder.inttoptr(word(0, _I64), kind.as_pointer())
            given = [word(1 + FLOATS + i, _I64) for i in range(count)] + [word(1 + i, _F64) for i in range(FLOATS)]
            return builder.call(function, given)
        return types.int32(types.int64), codegen
    return call


_call_12, _call_24, _call_48, _call_72, _call_96 = map(_caller, INTEGERS)


@intrinsic
def _look(typingctx, word):
    """The 32-bit word at an address, as another processor's kernel or a device set it; what was written before it is seen after this."""
    def codegen(context, builder, signature, args):
        return builder.load_atomic(builder.inttoptr(args[0], _I32.as_pointer()), "acquire", 4)
    return types.int32(types.int64), codegen


@intrinsic
def _set(typingctx, word, value):
    """Sets the word at an address; whoever sees it sees all that was written before."""
    def codegen(context, builder, signature, args):
        builder.store_atomic(builder.trunc(args[1], _I32), builder.inttoptr(args[0], _I32.as_pointer()), "release", 4)
        return context.get_dummy_value()
    return types.none(types.int64, types.int64), codegen


@intrinsic
def _stamp(typingctx, function, where):
    """clock_gettime, whose address is `function`, of CLOCK_MONOTONIC into the two words at `where`."""
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_I32, [_I32, _I64])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [ir.Constant(_I32, time.CLOCK_MONOTONIC), args[1]])
    return types.int32(types.int64, types.int64), codegen


@intrinsic
def _pause(typingctx):
    """Tells the core that it waits: it saves power, and leaves its other thread more."""
    def codegen(context, builder, signature, args):
        name, given = (("llvm.x86.sse2.pause", []) if platform.machine().lower() in ("x86_64", "amd64")
                       else ("llvm.aarch64.hint", [ir.Constant(_I32, 1)]))
        builder.call(builder.module.declare_intrinsic(name, (), ir.FunctionType(ir.VoidType(), [g.type for g in given])), given)
        return context.get_dummy_value()
    return types.none(), codegen


@kernel
def run_rows(rows, at, looks):
    """Does rows[at:] in order; returns how many are done: all, or those before a call that failed or a word that did not come in `looks` looks."""
    while at * ROW < rows.size:
        kind, where, value = rows[at * ROW], rows[at * ROW + 1], rows[at * ROW + 2]
        if kind == SET:
            _set(where, value)
        elif kind == AWAIT:
            left = looks
            while _look(where) < value:
                _pause()
                left -= 1
                if left < 0:
                    return at
        elif kind == STAMP:
            _stamp(value, where)
        else:
            if kind == 0:
                status = _call_12(where)
            elif kind == 1:
                status = _call_24(where)
            elif kind == 2:
                status = _call_48(where)
            elif kind == 3:
                status = _call_72(where)
            else:
                status = _call_96(where)
            if status != 0:
                return at
        at += 1
    return at


def packed(rows: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Rows as `run_rows` takes them."""
    return np.array(rows, np.int64).reshape(-1)

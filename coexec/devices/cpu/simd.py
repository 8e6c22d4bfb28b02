"""Vectors of float32 inside numba kernels: a type, loads, stores, arithmetic, strided access, and the matrix micro-kernel.

LLVM's own vectoriser gives up on transforms with many streams; these say what to do. A vector has LANES elements; LLVM splits
it into what the machine has. Offsets are elements of flat arrays, and nothing checks them.
"""

from __future__ import annotations

import operator

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic, models, overload, register_model

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def _shape() -> tuple[int, int]:
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 8
    if features.get("avx"):
        return 8, 4
    return (4, 8) if binding.get_process_triple().startswith(("aarch64", "arm64")) else (4, 4)


#: Elements of a vector; rows of a matrix tile. A tile is at most PANEL_VECTORS vectors wide, so that it fits the registers.
LANES, ROWS = _shape()
PANEL_VECTORS = 3
PANEL = LANES * PANEL_VECTORS


class F32Vector(types.Type):
    """numba's name for <LANES x float>."""

    def __init__(self) -> None:
        super().__init__(name=f"f32x{LANES}")


vector = F32Vector()
_VEC = ir.VectorType(_F32, LANES)


@register_model(F32Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _VEC)


def _pointer(context, builder, array_type, array, index, pointee):
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), pointee.as_pointer())


def _splat(builder, value, vec=_VEC):
    one = builder.insert_element(ir.Constant(vec, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(vec, ir.Undefined), ir.Constant(ir.VectorType(_I32, vec.count), [0] * vec.count))


def _load(builder, pointer):
    found = builder.load(pointer)
    found.align = 4
    return found


def _store(builder, value, pointer):
    builder.store(value, pointer).align = 4


@intrinsic
def load(typingctx, array, index):
    """LANES elements from array[index]."""
    def codegen(context, builder, signature, args):
        return _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], _VEC))
    return vector(array, types.int64), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Writes LANES elements at array[index]."""
    def codegen(context, builder, signature, args):
        _store(builder, args[2], _pointer(context, builder, signature.args[0], args[0], args[1], _VEC))
        return context.get_dummy_value()
    return types.void(array, types.int64, vector), codegen


@intrinsic
def splat(typingctx, value):
    """The same value in every lane."""
    return vector(types.float32), lambda context, builder, signature, args: _splat(builder, args[0])


@intrinsic
def load_strided(typingctx, array, index, step, phase):
    """Elements phase, phase + step, ... (LANES of them) of the step * LANES elements from array[index]; step and phase literal."""
    if not (isinstance(step, types.IntegerLiteral) and isinstance(phase, types.IntegerLiteral)):
        return None
    wide = ir.VectorType(_F32, LANES * step.literal_value)
    picks = [phase.literal_value + i * step.literal_value for i in range(LANES)]

    def codegen(context, builder, signature, args):
        whole = _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], wide))
        return builder.shuffle_vector(whole, ir.Constant(wide, ir.Undefined), ir.Constant(ir.VectorType(_I32, LANES), picks))
    return vector(array, types.int64, step, phase), codegen


def _interleaved(builder, parts):
    while len(parts) > 1:  # halves first: (a, b, c, d) -> (ac, bd) -> abcd, element by element
        half = len(parts) // 2
        n = parts[0].type.count
        mask = ir.Constant(ir.VectorType(_I32, 2 * n), [i // 2 + (i % 2) * n for i in range(2 * n)])
        parts = [builder.shuffle_vector(parts[i], parts[i + half], mask) for i in range(half)]
    return parts[0]


@intrinsic
def store4(typingctx, array, index, a, b, c, d):
    """Writes a[0] b[0] c[0] d[0] a[1] ... at array[index]."""
    def codegen(context, builder, signature, args):
        whole = _interleaved(builder, list(args[2:]))
        _store(builder, whole, _pointer(context, builder, signature.args[0], args[0], args[1], whole.type))
        return context.get_dummy_value()
    return types.void(array, types.int64, vector, vector, vector, vector), codegen


@intrinsic
def store2(typingctx, array, index, a, b):
    """Writes a[0] b[0] a[1] b[1] ... at array[index]."""
    def codegen(context, builder, signature, args):
        whole = _interleaved(builder, list(args[2:]))
        _store(builder, whole, _pointer(context, builder, signature.args[0], args[0], args[1], whole.type))
        return context.get_dummy_value()
    return types.void(array, types.int64, vector, vector), codegen


def _binary(name):
    @intrinsic
    def op(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, name)(args[0], args[1], flags=("contract", "reassoc", "nsz"))
        return vector(vector, vector), codegen
    return op


_add, _sub, _mul = _binary("fadd"), _binary("fsub"), _binary("fmul")


def _define(function, implementation):
    @overload(function)
    def chosen(a, b):
        if isinstance(a, F32Vector) and isinstance(b, F32Vector):
            return lambda a, b: implementation(a, b)
        if isinstance(a, F32Vector) and isinstance(b, types.Float):
            return lambda a, b: implementation(a, splat(b))
        if isinstance(b, F32Vector) and isinstance(a, types.Float):
            return lambda a, b: implementation(splat(a), b)


_define(operator.add, _add)
_define(operator.sub, _sub)
_define(operator.mul, _mul)


def _clamped(builder, value, low, high):
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)  # a NaN is neither: it stays
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


@intrinsic
def clamp(typingctx, value, low, high):
    """Each lane held between low and high; NaN stays NaN."""
    def codegen(context, builder, signature, args):
        return _clamped(builder, args[0], _splat(builder, args[1]), _splat(builder, args[2]))
    return vector(vector, types.float32, types.float32), codegen


@intrinsic
def multiply_tile(typingctx, vectors, a, a_at, b, b_at, depth, c, c_at, c_row, bias, bias_at, accumulate, low, high):
    """A tile of a matrix product: ROWS rows, `vectors` (literal) vectors wide.

    a: depth x ROWS, b: depth x (vectors * LANES), both packed; row r of the tile is c[c_at + r * c_row ...]. Adds bias[bias_at + r],
    or what c holds where `accumulate`; the result is clamped between low and high.
    """
    if not isinstance(vectors, types.IntegerLiteral):
        return None
    wide = vectors.literal_value

    def codegen(context, builder, signature, args):
        _, a, a_at, b, b_at, depth, c, c_at, c_row, bias, bias_at, accumulate, low, high = args
        kind = signature.args
        a0 = _pointer(context, builder, kind[1], a, a_at, _F32)
        b0 = _pointer(context, builder, kind[3], b, b_at, _VEC)
        c0 = _pointer(context, builder, kind[6], c, c_at, _F32)
        bias0 = _pointer(context, builder, kind[9], bias, bias_at, _F32)
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VEC, [_VEC] * 3), f"llvm.fmuladd.v{LANES}f32")
        zero = ir.Constant(_VEC, [0.0] * LANES)
        before = builder.block
        body, after = builder.append_basic_block("tile.k"), builder.append_basic_block("tile.end")
        builder.branch(body)
        builder.position_at_end(body)
        k = builder.phi(_I64)
        ap, bp = builder.phi(a0.type), builder.phi(b0.type)
        sums = [[builder.phi(_VEC) for _ in range(wide)] for _ in range(ROWS)]
        columns = [_load(builder, builder.gep(bp, [ir.Constant(_I64, v)])) for v in range(wide)]
        new = []
        for r in range(ROWS):
            factor = _splat(builder, builder.load(builder.gep(ap, [ir.Constant(_I64, r)])))
            new.append([builder.call(fma, [factor, columns[v], sums[r][v]]) for v in range(wide)])
        k1 = builder.add(k, ir.Constant(_I64, 1))
        a1, b1 = builder.gep(ap, [ir.Constant(_I64, ROWS)]), builder.gep(bp, [ir.Constant(_I64, wide)])
        builder.cbranch(builder.icmp_signed("<", k1, depth), body, after)
        for phi, first, following in [(k, ir.Constant(_I64, 0), k1), (ap, a0, a1), (bp, b0, b1)] + [
                (sums[r][v], zero, new[r][v]) for r in range(ROWS) for v in range(wide)]:
            phi.add_incoming(first, before)
            phi.add_incoming(following, body)
        builder.position_at_end(after)
        low, high = _splat(builder, low), _splat(builder, high)
        with builder.if_else(builder.icmp_signed("!=", accumulate, ir.Constant(_I64, 0))) as (more, fresh):
            for branch, first in ((more, False), (fresh, True)):
                with branch:
                    for r in range(ROWS):
                        row = builder.gep(c0, [builder.mul(c_row, ir.Constant(_I64, r))])
                        base = _splat(builder, builder.load(builder.gep(bias0, [ir.Constant(_I64, r)]))) if first else None
                        for v in range(wide):
                            at = builder.bitcast(builder.gep(row, [ir.Constant(_I64, v * LANES)]), _VEC.as_pointer())
                            total = builder.fadd(new[r][v], base if first else _load(builder, at))
                            _store(builder, _clamped(builder, total, low, high), at)
        return context.get_dummy_value()
    i, f = types.int64, types.float32
    return types.void(vectors, a, i, b, i, i, c, i, i, bias, i, i, f, f), codegen

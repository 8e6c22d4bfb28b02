"""Vectors of float32 inside numba kernels: a type, loads, stores, arithmetic, strided access, and the matrix micro-kernel.

LLVM's own vectoriser gives up on transforms with many streams; these say what to do. A vector has LANES elements; LLVM splits
it into what the machine has. Offsets are elements of flat arrays, and nothing checks them.
"""

from __future__ import annotations

import operator

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic, lower_builtin, models, register_model
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

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
#: How many rows of b a product with one row of a asks for in advance.
AHEAD = 64
#: Tiles of at most so many steps also ask for what the next strip writes: longer ones give the hardware time enough.
SHORT_DEPTH = 128


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
def element(typingctx, array, index):
    """The float32 number `index` of an array of bytes that need not be aligned."""
    def codegen(context, builder, signature, args):
        found = builder.load(builder.gep(_pointer(context, builder, signature.args[0], args[0], ir.Constant(_I64, 0), _F32), [args[1]]))
        found.align = 1
        return found
    return types.float32(array, types.int64), codegen


def _prefetch(builder, pointer, to_write=0):
    """Brings a cache line near: to the second level for reading, to the first for writing."""
    pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, ir.Constant(_I32, to_write), ir.Constant(_I32, 3 if to_write else 2), ir.Constant(_I32, 1)])


@intrinsic
def ask_for(typingctx, array, index):
    """Asks for the cache line of array[index], which will be read; it need not exist."""
    def codegen(context, builder, signature, args):
        _prefetch(builder, _pointer(context, builder, signature.args[0], args[0], args[1], _F32))
        return context.get_dummy_value()
    return types.void(array, types.int64), codegen


@intrinsic
def splat(typingctx, value):
    """The same value in every lane."""
    return vector(types.float32), lambda context, builder, signature, args: _splat(builder, args[0])


def _mask(builder, count, first, stop):
    ints = ir.VectorType(_I32, count)
    lanes = ir.Constant(ints, list(range(count)))
    low, high = (_splat(builder, builder.trunc(a, _I32), ints) for a in (first, stop))
    return builder.and_(builder.icmp_signed(">=", lanes, low), builder.icmp_signed("<", lanes, high))


@intrinsic
def keep(typingctx, value, first, stop):
    """Lanes first <= i < stop of a vector, 0 in the others."""
    def codegen(context, builder, signature, args):
        inside = _mask(builder, LANES, args[1], args[2])
        return builder.select(inside, args[0], ir.Constant(_VEC, [0.0] * LANES))
    return vector(vector, types.int64, types.int64), codegen


@intrinsic
def load_inside(typingctx, array, index, step, first, stop):
    """Every step-th (literal) of the step * LANES elements from array[index]; those before `first` or from `stop` on are not
    touched and read as 0 (counted from index)."""
    if not isinstance(step, types.IntegerLiteral):
        return None
    count = LANES * step.literal_value

    def codegen(context, builder, signature, args):
        wide = ir.VectorType(_F32, count)
        at = _pointer(context, builder, signature.args[0], args[0], args[1], wide)
        mask = _mask(builder, count, args[3], args[4])
        kind = ir.FunctionType(wide, [at.type, _I32, mask.type, wide])
        masked = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{count}f32.p0")
        whole = builder.call(masked, [at, ir.Constant(_I32, 4), mask, ir.Constant(wide, [0.0] * count)])
        if count == LANES:
            return whole
        picks = list(range(0, count, step.literal_value))
        return builder.shuffle_vector(whole, ir.Constant(wide, ir.Undefined), ir.Constant(ir.VectorType(_I32, LANES), picks))
    return vector(array, types.int64, step, types.int64, types.int64), codegen


@intrinsic
def store_first(typingctx, array, index, value, count):
    """Writes the first `count` lanes at array[index]."""
    def codegen(context, builder, signature, args):
        at = _pointer(context, builder, signature.args[0], args[0], args[1], _VEC)
        mask = _mask(builder, LANES, ir.Constant(_I64, 0), args[3])
        kind = ir.FunctionType(ir.VoidType(), [_VEC, at.type, _I32, mask.type])
        masked = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
        builder.call(masked, [args[2], at, ir.Constant(_I32, 4), mask])
        return context.get_dummy_value()
    return types.void(array, types.int64, vector, types.int64), codegen


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


@intrinsic
def store_sorted(typingctx, step, array, index, apart, value):
    """Writes lanes 0, step, 2 * step ... of a vector side by side at array[index], lanes 1, 1 + step ... `apart` further, and so on; step literal."""
    if not isinstance(step, types.IntegerLiteral):
        return None
    by, each = step.literal_value, LANES // step.literal_value
    part = ir.VectorType(_F32, each)

    def codegen(context, builder, signature, args):
        _, array, index, apart, value = args
        picks = ir.Constant(ir.VectorType(_I32, LANES), [phase + by * i for phase in range(by) for i in range(each)])
        ordered = builder.shuffle_vector(value, ir.Constant(_VEC, ir.Undefined), picks)
        for phase in range(by):
            own = ir.Constant(ir.VectorType(_I32, each), list(range(phase * each, (phase + 1) * each)))
            at = builder.add(index, builder.mul(apart, ir.Constant(_I64, phase)))
            _store(builder, builder.shuffle_vector(ordered, ir.Constant(_VEC, ir.Undefined), own),
                   _pointer(context, builder, signature.args[1], array, at, part))
        return context.get_dummy_value()
    return types.void(step, array, types.int64, types.int64, vector), codegen


@intrinsic
def load_from(typingctx, array, index, first, value):
    """LANES elements from array[index], but in the lanes before `first` those of `value`."""
    def codegen(context, builder, signature, args):
        ints = ir.VectorType(_I32, LANES)
        own = builder.icmp_signed(">=", ir.Constant(ints, list(range(LANES))), _splat(builder, builder.trunc(args[2], _I32), ints))
        return builder.select(own, _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], _VEC)), args[3])
    return vector(array, types.int64, types.int64, vector), codegen


def _moved(builder, value, scalar, picks):
    other = _splat(builder, scalar)
    return builder.shuffle_vector(value, other, ir.Constant(ir.VectorType(_I32, LANES), picks))


@intrinsic
def after(typingctx, scalar, value):
    """A vector's lanes one further up, the scalar in the first."""
    def codegen(context, builder, signature, args):
        return _moved(builder, args[1], args[0], [LANES, *range(LANES - 1)])
    return vector(types.float32, vector), codegen


@intrinsic
def before(typingctx, value, scalar):
    """A vector's lanes one further down, the scalar in the last."""
    def codegen(context, builder, signature, args):
        return _moved(builder, args[0], args[1], list(range(1, LANES + 1)))
    return vector(vector, types.float32), codegen


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


def _wide(builder, kind, value):
    return value if isinstance(kind, F32Vector) else _splat(builder, value)


@intrinsic
def store_turned(typingctx, to, at, array, index, row):
    """Turns ROWS rows of LANES elements, `row` apart from array[index], into LANES times ROWS side by side at to[at]."""
    def codegen(context, builder, signature, args):
        to, at, array, index, row = args
        base = _pointer(context, builder, signature.args[2], array, index, _F32)
        rows = [_load(builder, builder.bitcast(builder.gep(base, [builder.mul(row, ir.Constant(_I64, r))]),
                                               _VEC.as_pointer())) for r in range(ROWS)]
        whole = _interleaved(builder, rows)
        _store(builder, whole, _pointer(context, builder, signature.args[0], to, at, whole.type))
        return context.get_dummy_value()
    i = types.int64
    return types.void(to, i, array, i, i), codegen


def _define(function, instruction):
    @infer_global(function)
    class Arithmetic(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and vector in args and all(a in (vector, types.float32) for a in args):
                return signature(vector, *args)

    def lower(context, builder, sig, args):
        return getattr(builder, instruction)(*(_wide(builder, t, v) for t, v in zip(sig.args, args)), flags=("contract", "nsz"))

    for kinds in ((vector, vector), (vector, types.float32), (types.float32, vector)):
        lower_builtin(function, *kinds)(lower)  # no function of its own: a call per addition would cost more than the addition


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")


@intrinsic
def pick_less(typingctx, a, b, x, y):
    """x where a < b, y elsewhere (where either is NaN too); each a vector or a float32."""
    def codegen(context, builder, signature, args):
        a, b, x, y = (_wide(builder, t, v) for t, v in zip(signature.args, args))
        return builder.select(builder.fcmp_ordered("<", a, b), x, y)
    return vector(a, b, x, y), codegen


@intrinsic
def pick_number(typingctx, x, y):
    """y where x is a number, x where it is NaN."""
    def codegen(context, builder, signature, args):
        x, y = (_wide(builder, t, v) for t, v in zip(signature.args, args))
        return builder.select(builder.fcmp_unordered("uno", x, x), x, y)
    return vector(x, y), codegen


def _fabs(builder, value):
    ints = ir.VectorType(_I32, LANES)
    return builder.bitcast(builder.and_(builder.bitcast(value, ints), ir.Constant(ints, [0x7FFFFFFF] * LANES)), _VEC)


@intrinsic
def magnitude(typingctx, x):
    """Absolute values."""
    return vector(vector), lambda context, builder, signature, args: _fabs(builder, args[0])


@intrinsic
def square_root(typingctx, x):
    """Square roots."""
    def codegen(context, builder, signature, args):
        return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VEC, [_VEC]), f"llvm.sqrt.v{LANES}f32"), args)
    return vector(vector), codegen


@intrinsic
def scale_by_power(typingctx, x, n):
    """x * 2 ** n for integral n between -252 and 254, in two factors: 2 ** 128 itself is no float."""
    def codegen(context, builder, signature, args):
        ints = ir.VectorType(_I32, LANES)
        power = builder.fptosi(args[1], ints)
        half = builder.ashr(power, ir.Constant(ints, [1] * LANES))
        result = args[0]
        for part in (half, builder.sub(power, half)):
            bits = builder.shl(builder.add(part, ir.Constant(ints, [127] * LANES)), ir.Constant(ints, [23] * LANES))
            result = builder.fmul(result, builder.bitcast(bits, _VEC))
        return result
    return vector(vector, vector), codegen


@intrinsic
def total(typingctx, x):
    """The sum of the lanes."""
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_F32, [_F32, _VEC])
        add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{LANES}f32")
        return builder.call(add, [ir.Constant(_F32, 0.0), args[0]], fastmath=("reassoc",))
    return types.float32(vector), codegen


@intrinsic
def largest(typingctx, x):
    """The largest lane; NaN where there is one."""
    def codegen(context, builder, signature, args):
        found, n = args[0], LANES
        while n > 1:  # halves against each other; the lanes above n hold what is done with
            n //= 2
            picks = ir.Constant(ir.VectorType(_I32, LANES), [(i + n) % LANES for i in range(LANES)])
            other = builder.shuffle_vector(found, ir.Constant(_VEC, ir.Undefined), picks)
            best = builder.select(builder.fcmp_ordered("<", found, other), other, found)
            found = builder.select(builder.fcmp_unordered("uno", other, other), other, best)
        return builder.extract_element(found, ir.Constant(_I32, 0))
    return types.float32(vector), codegen


def _clamped(builder, value, low, high):
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)  # a NaN is neither: it stays
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


@intrinsic
def clamp(typingctx, value, low, high):
    """Each lane held between low and high; NaN stays NaN."""
    def codegen(context, builder, signature, args):
        return _clamped(builder, args[0], _splat(builder, args[1]), _splat(builder, args[2]))
    return vector(vector, types.float32, types.float32), codegen


def _masked(builder, count):
    """A reader and a writer of the first `count` lanes at a pointer to a vector."""
    mask = _mask(builder, LANES, ir.Constant(_I64, 0), count)
    align = ir.Constant(_I32, 4)

    def read(pointer):
        kind = ir.FunctionType(_VEC, [pointer.type, _I32, mask.type, _VEC])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
        return builder.call(function, [pointer, align, mask, ir.Constant(_VEC, [0.0] * LANES)])

    def write(value, pointer):
        kind = ir.FunctionType(ir.VoidType(), [_VEC, pointer.type, _I32, mask.type])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
        builder.call(function, [value, pointer, align, mask])

    return read, write


def _fma(builder):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VEC, [_VEC] * 3), f"llvm.fmuladd.v{LANES}f32")


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, rounded once where the machine can; a, b vectors or float32."""
    def codegen(context, builder, signature, args):
        return builder.call(_fma(builder), [_wide(builder, t, v) for t, v in zip(signature.args, args)])
    return vector(a, b, c), codegen


@intrinsic
def turn(typingctx, to, at, array, index, row):
    """Turns LANES rows of LANES elements, `row` apart from array[index], into LANES rows side by side at to[at]."""
    def codegen(context, builder, signature, args):
        to, at, array, index, row = args
        base = _pointer(context, builder, signature.args[2], array, index, _F32)
        rows = [_load(builder, builder.bitcast(builder.gep(base, [builder.mul(row, ir.Constant(_I64, r))]), _VEC.as_pointer()))
                for r in range(LANES)]
        ints, bit = ir.VectorType(_I32, LANES), 1
        while bit < LANES:  # swaps the off-diagonal blocks of every 2 * bit square
            upper = ir.Constant(ints, [i if not i & bit else i - bit + LANES for i in range(LANES)])
            lower = ir.Constant(ints, [i + bit if not i & bit else i + LANES for i in range(LANES)])
            rows = [builder.shuffle_vector(rows[r], rows[r + bit], upper) if not r & bit else
                    builder.shuffle_vector(rows[r - bit], rows[r], lower) for r in range(LANES)]
            bit *= 2
        out = _pointer(context, builder, signature.args[0], to, at, _VEC)
        for r in range(LANES):
            _store(builder, rows[r], builder.gep(out, [ir.Constant(_I64, r)]))
        return context.get_dummy_value()
    i = types.int64
    return types.void(to, i, array, i, i), codegen


@intrinsic
def multiply_tile(typingctx, rows, vectors, a, a_at, b, b_at, depth, c, c_at, c_row, bias, bias_at, by_column, accumulate, last,
                  res, res_at, res_row, low, high, rows_left, columns_left, coming, soon, shifts):
    """A tile of a matrix product: `rows` rows (at most ROWS), `vectors` vectors wide, both literal; depth is at least 1.

    a: depth x ROWS, b: depth x (vectors * LANES), both packed; row r of the tile is c[c_at + r * c_row ...]. Sums run over k in order,
    from what c holds where `accumulate`, else from 0. Where `last`, adds bias[bias_at + r] (or, `by_column`, a whole row of biases from
    bias_at), then res[res_at + r * res_row ...] unless res_row is negative, and clamps. Only the first rows_left rows, and of the last
    vector the first columns_left lanes, are read from c and res and written.
    """
    if not (isinstance(rows, types.IntegerLiteral) and isinstance(vectors, types.IntegerLiteral)):
        return None
    tall, wide = rows.literal_value, vectors.literal_value

    def codegen(context, builder, signature, args):
        (_, _, a, a_at, b, b_at, depth, c, c_at, c_row, bias, bias_at, by_column, accumulate, last, res, res_at, res_row, low, high,
         rows_left, columns_left, coming, soon, shifts) = args
        kind = signature.args
        number = lambda n: ir.Constant(_I64, n)  # noqa: E731
        block = lambda name: builder.append_basic_block(f"tile.{name}")  # noqa: E731
        isnt = lambda x: builder.icmp_signed("!=", x, number(0))  # noqa: E731
        a0 = _pointer(context, builder, kind[2], a, a_at, _F32)
        b0 = _pointer(context, builder, kind[4], b, b_at, _VEC)
        c0 = _pointer(context, builder, kind[7], c, c_at, _F32)
        bias0 = _pointer(context, builder, kind[10], bias, bias_at, _F32)
        res0 = _pointer(context, builder, kind[15], res, res_at, _F32)
        if isinstance(kind[24], types.Array):
            b1st = builder.bitcast(b0, _F32.as_pointer())
            shift0 = _pointer(context, builder, kind[24], shifts, number(0), _I64)
        soon0 = _pointer(context, builder, kind[22], coming, soon, _F32)
        fused = _fma(builder)
        tiles = [(r, v) for r in range(tall) for v in range(wide)]
        final = builder.sub(rows_left, number(1))
        # Rows that are not there stand for the last one that is: written from the bottom up, it overwrites them.
        there = [number(0)] + [builder.select(builder.icmp_signed("<", number(r), final), number(r), final) for r in range(1, tall)]
        partial = builder.icmp_signed("<", columns_left, number(LANES))
        masked_read, masked_write = _masked(builder, columns_left)

        def places(base, stride):
            found = []
            for r in range(tall):
                row = builder.gep(base, [builder.mul(stride, there[r])])
                found += [builder.bitcast(builder.gep(row, [number(v * LANES)]), _VEC.as_pointer()) for v in range(wide)]
            return found

        def read(base, stride, then):
            """Every vector of the tile at base, read one of two ways; a list of (block, values) that end in `then`."""
            ways, cut, full = [], block("cut"), block("full")
            builder.cbranch(partial, cut, full)
            for start, reader in ((cut, masked_read), (full, lambda p: _load(builder, p))):
                builder.position_at_end(start)
                values = [(reader if v == wide - 1 else lambda p: _load(builder, p))(p) for (r, v), p in zip(tiles, places(base, stride))]
                ways.append((builder.block, values))
                builder.branch(then)
            return ways

        def merge(ways):
            merged = []
            for values in zip(*(values for _, values in ways)):
                phi = builder.phi(_VEC)
                for (origin, _), value in zip(ways, values):
                    phi.add_incoming(value, origin)
                merged.append(phi)
            return merged

        if tall > 1:  # where a tile is done soon, its rows of the next strip would not be in the cache when they are written
            soon_done, ready = block("fetch"), block("ready")
            builder.cbranch(builder.and_(isnt(last), builder.icmp_signed("<=", depth, number(SHORT_DEPTH))), soon_done, ready)
            builder.position_at_end(soon_done)
            for r in range(tall):
                row = builder.gep(c0, [builder.mul(c_row, there[r])])
                for v in range(wide):
                    _prefetch(builder, builder.gep(row, [number((wide + v) * LANES)]), to_write=1)
            builder.branch(ready)
            builder.position_at_end(ready)
        begin, body, after = block("begin"), block("k"), block("end")
        if tall > 1:
            for place in places(c0, c_row):
                _prefetch(builder, place, 1)
        fresh, more = builder.block, block("more")
        builder.cbranch(isnt(accumulate), more, begin)
        builder.position_at_end(more)
        ways = read(c0, c_row, begin)
        builder.position_at_end(begin)
        first = merge([(fresh, [ir.Constant(_VEC, [0.0] * LANES)] * len(tiles)), *ways])
        builder.branch(body)
        builder.position_at_end(body)
        k = builder.phi(_I64)
        ap, bp = builder.phi(a0.type), builder.phi(b0.type)
        sums = [builder.phi(_VEC) for _ in tiles]
        shifted = isinstance(kind[24], types.Array)
        row = builder.bitcast(builder.gep(b1st, [builder.load(builder.gep(shift0, [k]))]), _VEC.as_pointer()) if shifted else bp
        columns = [_load(builder, builder.gep(row, [number(v)])) for v in range(wide)]
        new = []
        for r in range(tall):
            factor = _splat(builder, builder.load(builder.gep(ap, [number(r)])))
            new += [builder.call(fused, [factor, columns[v], sums[r * wide + v]]) for v in range(wide)]
        if not isinstance(kind[23], types.IntegerLiteral):
            _prefetch(builder, builder.gep(soon0, [builder.mul(k, number(LANES))]))
        if tall == 1 and not shifted:  # little to do with each element of b: it is read as fast as memory gives it
            for v in range(wide):
                _prefetch(builder, builder.gep(bp, [number(v + AHEAD * wide)]))
        k1 = builder.add(k, number(1))
        a1, b1 = builder.gep(ap, [number(ROWS)]), builder.gep(bp, [number(wide)])
        builder.cbranch(builder.icmp_signed("<", k1, depth), body, after)
        for phi, start, following in [(k, number(0), k1), (ap, a0, a1), (bp, b0, b1), *zip(sums, first, new)]:
            phi.add_incoming(start, begin)
            phi.add_incoming(following, body)
        builder.position_at_end(after)
        finish, write = block("finish"), block("write")
        builder.cbranch(isnt(last), finish, write)
        builder.position_at_end(finish)
        across, down, biased = block("across"), block("down"), block("biased")
        builder.cbranch(isnt(by_column), across, down)
        builder.position_at_end(across)
        row = builder.bitcast(bias0, _VEC.as_pointer())
        biases = [_load(builder, builder.gep(row, [number(v)])) for v in range(wide)]
        ways = [(across, [builder.fadd(s, biases[v]) for (r, v), s in zip(tiles, new)])]
        builder.branch(biased)
        builder.position_at_end(down)
        biases = [_splat(builder, builder.load(builder.gep(bias0, [number(r)]))) for r in range(tall)]
        ways.append((down, [builder.fadd(s, biases[r]) for (r, v), s in zip(tiles, new)]))
        builder.branch(biased)
        builder.position_at_end(biased)
        sums = merge(ways)
        plain, plus, sum_up, done = builder.block, block("residual"), block("sum"), block("clamp")
        builder.cbranch(builder.icmp_signed(">=", res_row, number(0)), plus, done)
        builder.position_at_end(plus)
        ways = read(res0, res_row, sum_up)
        builder.position_at_end(sum_up)
        with_res = [builder.fadd(s, e) for s, e in zip(sums, merge(ways))]
        builder.branch(done)
        builder.position_at_end(done)
        sums = merge([(plain, sums), (sum_up, with_res)])
        low, high = _splat(builder, low), _splat(builder, high)
        clamped = [_clamped(builder, s, low, high) for s in sums]
        builder.branch(write)
        builder.position_at_end(write)
        found = merge([(after, new), (done, clamped)])
        cut, full, end = block("write.cut"), block("write.full"), block("done")
        builder.cbranch(partial, cut, full)
        for start, writer in ((cut, masked_write), (full, lambda value, p: _store(builder, value, p))):
            builder.position_at_end(start)
            for (_, v), value, place in reversed(list(zip(tiles, found, places(c0, c_row)))):
                (writer if v == wide - 1 else lambda value, p: _store(builder, value, p))(value, place)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()
    i, f = types.int64, types.float32
    return types.void(rows, vectors, a, i, b, i, i, c, i, i, bias, i, i, i, i, res, i, i, f, f, i, i, coming, soon, shifts), codegen


@intrinsic
def sum_of_shifts(typingctx, rows, vectors, a, a_at, x, x_at, offsets, count, c, c_at):
    """Sums over k < count of a[a_at + k * rows + r] * x[x_at + offsets[k] ...], `rows` by `vectors` vectors (literal), count at least 1.

    Row r goes to c[c_at + r * vectors * LANES ...]. What a convolution with few output channels is, without gathering columns.
    """
    if not (isinstance(rows, types.IntegerLiteral) and isinstance(vectors, types.IntegerLiteral)):
        return None
    tall, wide = rows.literal_value, vectors.literal_value

    def codegen(context, builder, signature, args):
        _, _, a, a_at, x, x_at, offsets, count, c, c_at = args
        kind = signature.args
        a0 = _pointer(context, builder, kind[2], a, a_at, _F32)
        x0 = _pointer(context, builder, kind[4], x, x_at, _F32)
        shifts = _pointer(context, builder, kind[6], offsets, ir.Constant(_I64, 0), _I64)
        fused = _fma(builder)
        before = builder.block
        body, after = builder.append_basic_block("shift.k"), builder.append_basic_block("shift.end")
        builder.branch(body)
        builder.position_at_end(body)
        k = builder.phi(_I64)
        sums = [builder.phi(_VEC) for _ in range(tall * wide)]
        row = builder.bitcast(builder.gep(x0, [builder.load(builder.gep(shifts, [k]))]), _VEC.as_pointer())
        columns = [_load(builder, builder.gep(row, [ir.Constant(_I64, v)])) for v in range(wide)]
        at, new = builder.mul(k, ir.Constant(_I64, tall)), []
        for r in range(tall):
            factor = _splat(builder, builder.load(builder.gep(a0, [builder.add(at, ir.Constant(_I64, r))])))
            new += [builder.call(fused, [factor, columns[v], sums[r * wide + v]]) for v in range(wide)]
        k1 = builder.add(k, ir.Constant(_I64, 1))
        builder.cbranch(builder.icmp_signed("<", k1, count), body, after)
        for phi, start, following in [(k, ir.Constant(_I64, 0), k1), *zip(sums, [ir.Constant(_VEC, [0.0] * LANES)] * len(sums), new)]:
            phi.add_incoming(start, before)
            phi.add_incoming(following, body)
        builder.position_at_end(after)
        out = _pointer(context, builder, kind[8], c, c_at, _VEC)
        for i, value in enumerate(new):
            _store(builder, value, builder.gep(out, [ir.Constant(_I64, i)]))
        return context.get_dummy_value()
    i = types.int64
    return types.void(rows, vectors, a, i, x, i, offsets, i, c, i), codegen

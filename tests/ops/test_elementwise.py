"""Elementwise operators: values against onnx.reference, ONNX's integer rules, and the law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexec.errors import IllegalCut
from coexec.graph.ir import Node, TensorType, Value
from coexec.ops import find_op, op_for
from coexec.ops.base import pieces_along
from coexec.ops.elementwise_binary import FUNCTIONS as BINARY
from coexec.ops.elementwise_unary import FUNCTIONS as UNARY
from coexec.ops.epilogue import ACTIVATIONS
from coexec.regions import Region

from .hand import hand_made
from .law import LAW, Const, assert_close, assert_law, assert_matches, compute_whole, make_node

SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
LOGIC = {"And", "Or", "Xor"}
BITS = {"BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift"}

ATTRIBUTES = {
    "LeakyRelu": {"alpha": 0.3}, "Elu": {"alpha": 1.5}, "Selu": {"alpha": 1.2, "gamma": 0.9}, "Celu": {"alpha": 2.0},
    "ThresholdedRelu": {"alpha": 0.4}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4}, "Gelu": {"approximate": "tanh"},
    "Swish": {"alpha": 1.5}, "Shrink": {"bias": 0.2, "lambd": 0.6}, "IsInf": {"detect_negative": 0},
}
INTS = {"Not": np.bool_, "BitwiseNot": np.int32}
HALVES = sorted(set(UNARY) - set(INTS))


def draw(op_type: str, shape: tuple[int, ...], dtype: type, rng: np.random.Generator) -> np.ndarray:
    if dtype is np.bool_:
        return np.asarray(rng.random(shape) < 0.5)
    if np.dtype(dtype).kind in "iu":
        return np.asarray(rng.integers(0 if np.dtype(dtype).kind == "u" else -9, 10, shape)).astype(dtype)
    x = np.asarray(rng.standard_normal(shape) * 2)
    x = np.clip(x, -0.99, 0.99) if op_type in ("Asin", "Acos", "Atanh") else np.abs(x) + 1 if op_type in ("Acosh", "Log", "Sqrt") else x
    return x.astype(dtype)


def unary(op_type: str, x: np.ndarray, attributes: dict | None):
    """A node of one input; onnx.reference's Softsign cannot take a scalar."""
    return hand_made(op_type, [x], [x]) if op_type == "Softsign" else make_node(op_type, [x], attributes)


@pytest.mark.parametrize("op_type", sorted(UNARY))
@pytest.mark.parametrize("attributes", ["default", "set"])
def test_unary_equals_reference(op_type, attributes):
    if attributes == "set" and op_type not in ATTRIBUTES:
        attributes = "default"
    rng = np.random.default_rng(1)
    for shape in ((2, 3, 4, 5), (7,), (), (0, 3)):
        x = draw(op_type, shape, INTS.get(op_type, np.float32), rng)
        node, arrays = unary(op_type, x, ATTRIBUTES[op_type] if attributes == "set" else None)
        assert_matches(node, arrays, [x / (1 + np.abs(x))] if op_type == "Softsign" else None)


@pytest.mark.parametrize("op_type", HALVES)
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(op_type, dtype):
    """The type is kept; values are those of double precision, rounded (onnx.reference itself rounds half after every step)."""
    x = draw(op_type, (3, 5), dtype, np.random.default_rng(2))
    node, arrays = make_node(op_type, [x], ATTRIBUTES.get(op_type))
    wide, wide_arrays = make_node(op_type, [x.astype(np.float64)], ATTRIBUTES.get(op_type))
    (found,), (expected,) = compute_whole(node, arrays), compute_whole(wide, wide_arrays)
    if found.dtype != np.bool_:
        np.testing.assert_allclose(found.astype(np.float64), expected, rtol=4e-3 if dtype == np.float16 else 1e-5,
                                   atol=6e-3 if dtype == np.float16 else 1e-5)
    else:
        assert (found == expected).all()


def test_special_values():
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 2.5, -1.5, 88.9], np.float32)
    for op_type in ("Relu", "Sigmoid", "Tanh", "Softsign", "IsNaN", "IsInf", "Sign", "Round", "Erf", "Floor", "Abs", "Reciprocal"):
        node, arrays = make_node(op_type, [x])
        (found,), finite = compute_whole(node, arrays), slice(5, None)
        if op_type in ("Relu", "Tanh", "Sigmoid", "Round", "Abs", "Erf", "Sign"):
            assert np.isnan(found[0]), op_type
        assert_matches(make_node(op_type, [x[finite]])[0], [x[finite]])
    assert compute_whole(*make_node("IsInf", [x], {"detect_positive": 0}))[0].tolist() == [i == 2 for i in range(10)]
    assert compute_whole(*make_node("Round", [np.array([0.5, 1.5, 2.5, -0.5], np.float32)]))[0].tolist() == [0, 2, 2, 0]
    softplus, = compute_whole(*make_node("Softplus", [np.array([-200, 0, 200], np.float32)]))
    assert_close(softplus, np.array([0, np.log(2), 200], np.float32))


@pytest.mark.parametrize("op_type", ["Abs", "Neg", "Sign", "Relu"])
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_integers_unary(op_type, dtype):
    x = np.array([[-128, -7, 0], [1, 3, 127]], dtype)
    node, arrays = make_node(op_type, [x])
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(0), arrays)


@given(st.sampled_from(sorted(UNARY)), SHAPES, SEEDS)
@LAW
def test_unary_law(op_type, shape, seed):
    rng = np.random.default_rng(seed)
    node, arrays = unary(op_type, draw(op_type, shape, INTS.get(op_type, np.float32), rng), ATTRIBUTES.get(op_type))
    assert_law(node, rng, arrays)


def test_silu_is_the_fused_activation():
    x = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    value = Value("x", TensorType(x.dtype, x.shape))
    node = Node("Silu", (value,), (Value("y", value.type),), domain="coexec")
    assert_close(compute_whole(node, [x])[0], ACTIVATIONS["Silu"](x, 0, 0))
    assert_close(compute_whole(node, [x])[0], x / (1 + np.exp(-x)))
    assert_law(node, np.random.default_rng(0), [x])


TYPES = [np.bool_, np.int8, np.uint8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64]


@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("target", TYPES)
def test_cast(source, target):
    import onnx

    x = (np.arange(12).reshape(3, 4) % 5 * 1.5).astype(source)
    node, arrays = make_node("Cast", [x], {"to": onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target))})
    assert_matches(node, arrays)
    assert_law(node, np.random.default_rng(0), arrays)
    like, arrays = make_node("CastLike", [x, np.zeros((0, 2, 1), target)])
    assert_matches(like, arrays)
    assert_law(like, np.random.default_rng(0), arrays)


@pytest.mark.parametrize("lower, upper", [(-1.0, 1.0), (None, 0.5), (0.0, None), (None, None), (2.0, -2.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16])
@pytest.mark.parametrize("constant", [True, False])
def test_clip(lower, upper, dtype, constant):
    wrap = Const if constant else lambda a: a
    bounds = [None if b is None else wrap(np.array(b, dtype)) for b in (lower, upper)]
    x = np.random.default_rng(0).normal(0, 3, (3, 4, 5)).astype(dtype)
    node, arrays = make_node("Clip", [x, *bounds])
    expected = x if lower is None else np.maximum(x, dtype(lower))
    assert_matches(node, arrays, [expected if upper is None else np.minimum(expected, dtype(upper))])
    assert_law(node, np.random.default_rng(0), arrays)
    short, arrays = make_node("Clip", [x, bounds[0]]) if upper is None and lower is not None else make_node("Clip", [x])
    assert_matches(short, arrays)


# Several inputs.

PAIRS = [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((1, 4), (3, 1)), ((), (2, 2)), ((3,), ()), ((), ()), ((0, 2), (1, 2)),
         ((2, 1, 1, 5), (1, 3, 4, 1))]


def types_of(op_type: str) -> list[type]:
    if op_type in LOGIC:
        return [np.bool_]
    if op_type in BITS:
        return [np.int32, np.uint8] if op_type != "BitShift" else [np.uint8, np.uint32, np.int32, np.int8]
    floats: list[type] = [np.float32, np.float64]
    if op_type == "Where":
        return [np.float32, np.int64]
    return floats if op_type in ("Sum", "Mean", "PRelu") else [*floats, np.int32, np.int64]


def operands(op_type: str, first: tuple, second: tuple, dtype: type, rng: np.random.Generator) -> tuple[list[np.ndarray], dict]:
    attributes: dict = {"direction": ("LEFT", "RIGHT")[int(rng.integers(2))]} if op_type == "BitShift" else {}
    x, y = draw(op_type, first, dtype, rng), draw(op_type, second, dtype, rng)
    if op_type == "Mod":
        attributes = {"fmod": int(np.dtype(dtype).kind == "f" or rng.integers(2))}
    if op_type in ("Mod", "Div"):
        y = np.where(y == 0, y.dtype.type(3), y)
    if op_type == "Pow":
        x, y = np.abs(x), np.abs(y) % 4
    if op_type == "PRelu":
        x = np.broadcast_to(x, np.broadcast_shapes(first, second)).copy()
    inputs = [x, y]
    if op_type == "Where":
        inputs = [np.asarray(rng.random(second[-1:]) < 0.5), x, y]
    return [np.asarray(i) for i in inputs], attributes


@pytest.mark.parametrize("op_type", sorted(BINARY))
def test_binary_equals_reference(op_type):
    rng = np.random.default_rng(3)
    for dtype in types_of(op_type):
        for first, second in PAIRS:
            inputs, attributes = operands(op_type, first, second, dtype, rng)
            # onnx.reference's Mean is of its first input's shape; its Div of integers is checked in exact arithmetic.
            exact = [(inputs[0] + inputs[1]) / dtype(2)] if op_type == "Mean" else \
                [truncated(*inputs)] if op_type == "Div" and np.dtype(dtype).kind == "i" else None
            node, arrays = hand_made(op_type, inputs, exact) if op_type == "Mean" else make_node(op_type, inputs, attributes)
            assert_matches(node, arrays, exact)


def truncated(x, y):
    """ONNX's integer division, in exact arithmetic: Python's, away from NumPy's floor."""
    x, y = np.broadcast_arrays(x, y)
    exact = [abs(int(a)) // abs(int(b)) * (1 if (a < 0) == (b < 0) else -1) for a, b in zip(x.ravel(), y.ravel())]
    return np.array(exact, x.dtype).reshape(x.shape)


@given(st.sampled_from(sorted(BINARY)), st.sampled_from(PAIRS), st.booleans(), SEEDS)
@LAW
def test_binary_law(op_type, shapes, constant, seed):
    rng = np.random.default_rng(seed)
    types = types_of(op_type)
    inputs, attributes = operands(op_type, *shapes, types[seed % len(types)], rng)
    given_inputs = [*inputs[:-1], Const(inputs[-1])] if constant else inputs
    made = hand_made(op_type, given_inputs, [inputs[0] + inputs[1]]) if op_type == "Mean" else make_node(op_type, given_inputs, attributes)
    node, arrays = made
    assert_law(node, rng, arrays)


def test_broadcast_inputs_are_read_once():
    node, _ = make_node("Add", [np.zeros((2, 1, 4), np.float32), np.zeros((3, 1), np.float32)])
    op = find_op("", "Add")
    assert [a.name for a in op.split_axes(node)] == ["batch", "channel", "length"]
    regions = op.input_regions(node, Region([(1, 2), (1, 3), (0, 2)]))
    assert regions == (Region([(1, 2), (0, 1), (0, 2)]), Region([(1, 3), (0, 1)]))


@pytest.mark.parametrize("op_type", ["Min", "Max", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_variadic(op_type, count):
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 4), (3, 1), (1, 1, 4), ()][:count]
    inputs = [np.asarray(rng.standard_normal(s), np.float32) for s in shapes]
    node, arrays = make_node(op_type, inputs)
    expected = {"Min": np.minimum, "Max": np.maximum, "Sum": np.add, "Mean": np.add}[op_type]
    total = inputs[0]
    for other in inputs[1:]:
        total = expected(total, other)
    assert_matches(node, arrays, [total / np.float32(count) if op_type == "Mean" else total])
    assert_law(node, rng, arrays)


def test_integer_division_and_modulo_signs():
    x = np.array([7, 7, -7, -7, 6, -6, 2**31 - 1], np.int32)
    y = np.array([2, -2, 2, -2, -3, 3, -1], np.int32)
    assert compute_whole(*make_node("Div", [x, y]))[0].tolist() == [3, -3, -3, 3, -2, -2, -(2**31 - 1)]
    assert compute_whole(*make_node("Mod", [x, y]))[0].tolist() == [1, -1, 1, -1, 0, 0, 0]
    assert compute_whole(*make_node("Mod", [x, y], {"fmod": 1}))[0].tolist() == [1, 1, -1, -1, 0, 0, 0]
    u = np.array([200, 7], np.uint8)
    assert compute_whole(*make_node("Div", [u, np.array([3, 2], np.uint8)]))[0].tolist() == [66, 3]


def test_pow_keeps_the_type_of_the_base():
    cases = [(np.float32, np.int64), (np.int32, np.float32), (np.int64, np.int32), (np.float32, np.float64), (np.int32, np.uint8)]
    for base, exponent in cases:
        x, y = np.array([1, 2, 3, -4], base), np.array([3, 2, 0, 1], exponent)
        node, arrays = make_node("Pow", [x, y])
        assert_matches(node, arrays)
        assert_law(node, np.random.default_rng(0), arrays)
    # onnx.reference refuses integers to a negative power; the truncated quotient is what remains.
    node, _ = make_node("Pow", [np.array([1, -1, -1, 2], np.int32), np.array([1, 1, 1, 1], np.int32)])
    found, = compute_whole(node, [np.array([1, -1, -1, 2], np.int32), np.array([-2, -2, -3, -1], np.int32)])
    assert found.tolist() == [1, 1, -1, 0]


def test_shift_beyond_the_width():
    x, y = np.array([-8, -8, 8, 8], np.int32), np.array([32, 1, 40, 2], np.int32)
    assert compute_whole(*make_node("BitShift", [x, y], {"direction": "RIGHT"}))[0].tolist() == [-1, -4, 0, 2]
    assert compute_whole(*make_node("BitShift", [x, y], {"direction": "LEFT"}))[0].tolist() == [0, -16, 0, 32]


def test_min_and_max_pass_nan_on():
    x, y = np.array([np.nan, 1], np.float32), np.array([0, np.nan], np.float32)
    for op_type in ("Min", "Max"):
        assert np.isnan(compute_whole(*make_node(op_type, [x, y]))[0]).all()


def test_types_numpy_lacks_are_left_to_the_reference():
    import ml_dtypes

    for op_type, dtype in (("Relu", ml_dtypes.float8_e5m2), ("Add", ml_dtypes.bfloat16), ("Abs", ml_dtypes.int4),
                           ("Softmax", ml_dtypes.bfloat16)):
        value = Value("x", TensorType(np.dtype(dtype), (2, 2)))
        node = Node(op_type, (value, value) if op_type == "Add" else (value,), (Value("y", value.type),))
        assert find_op("", op_type).declines(node)
        assert op_for(node).op_types == ()
    strings = Value("s", TensorType(np.dtype(object), (2,)))
    node = Node("Equal", (strings, strings), (Value("y", TensorType(np.dtype(bool), (2,))),))
    assert "string" in find_op("", "Equal").declines(node)


def test_cuts_must_be_legal():
    node, _ = make_node("Relu", [np.zeros((1, 4), np.float32)])
    op = find_op("", "Relu")
    assert [a.name for a in op.split_axes(node)] == ["channel"]
    with pytest.raises(IllegalCut, match="batch"):
        op.axis(node, "batch")
    with pytest.raises(IllegalCut):
        pieces_along(node, op.axis(node, "channel"), (0, 5))

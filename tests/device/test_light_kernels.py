"""Light operators on the device, whole and in pieces, in tight and loose memory, against the operators' own meaning."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from coexec.devices.opencl.device import OpenCLDevice
from coexec.graph.ir import Activation, TensorType, Value
from tests.ops.law import Const, compute_whole, make_node

from .harness import assert_on_device, run_on_device

rng = np.random.default_rng(20)


def f32(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


SOFTMAX = [(op, shape, axis) for op in ("Softmax", "LogSoftmax", "Hardmax")
           for shape, axis in (((5, 40), -1), ((2, 7, 3, 5), 1), ((70, 3), 0), ((3, 4, 130), 2))]


@pytest.mark.parametrize("op,shape,axis", SOFTMAX)
def test_softmax(device: OpenCLDevice, op: str, shape: tuple[int, ...], axis: int) -> None:
    assert_on_device(device, *make_node(op, [f32(*shape)], {"axis": axis}))


def tame(*shape: int) -> np.ndarray:
    """Values in (-1, 1), where every function is defined."""
    return rng.uniform(-0.95, 0.95, shape).astype(np.float32)


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 30.0, -30.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 100.0,
                    7.25], np.float32)
UNARY = [(op, {}) for op in (
    "Relu", "Abs", "Neg", "Sign", "Sigmoid", "Softplus", "Mish", "Softsign", "Reciprocal", "Ceil", "Floor", "Round", "Tanh", "Sqrt", "Exp",
    "Log", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Erf", "LeakyRelu", "Elu", "Selu",
    "Celu", "ThresholdedRelu", "HardSigmoid", "HardSwish", "Shrink", "Gelu", "IsNaN", "IsInf", "Swish")] + [
    ("LeakyRelu", {"alpha": 0.3}), ("Elu", {"alpha": 2.0}), ("Selu", {"alpha": 2.0, "gamma": 3.0}), ("Celu", {"alpha": 2.0}),
    ("ThresholdedRelu", {"alpha": 0.4}), ("HardSigmoid", {"alpha": 0.5, "beta": 0.6}), ("Shrink", {"lambd": 0.3, "bias": 0.1}),
    ("Gelu", {"approximate": "tanh"}), ("IsInf", {"detect_negative": 0}), ("IsInf", {"detect_positive": 0}),
    ("IsInf", {"detect_positive": 0, "detect_negative": 0}), ("Swish", {"alpha": 0.5})]


@pytest.mark.parametrize("op,attributes", UNARY)
def test_unary(device: OpenCLDevice, op: str, attributes: dict) -> None:
    x = tame(222) + (1.96 if op == "Acosh" else 0)
    assert_on_device(device, *make_node(op, [x.astype(np.float32)], attributes), limit=1)


SMOOTH = {"Relu", "Abs", "Neg", "Sign", "Sigmoid", "Softplus", "Reciprocal", "Ceil", "Floor", "Round", "Tanh", "Sqrt", "Exp", "Log", "Erf",
          "LeakyRelu", "Elu", "ThresholdedRelu", "IsNaN", "IsInf", "Atan", "Asinh"}


@pytest.mark.parametrize("op,attributes", [(o, a) for o, a in UNARY if o in SMOOTH])
def test_unary_of_special_values(device: OpenCLDevice, op: str, attributes: dict) -> None:
    """Zeros, infinities, NaN, halves: elementwise, so that a large value does not widen the tolerance of a small one."""
    node, arrays = make_node(op, [SPECIAL], attributes)
    (found,), (expected,) = run_on_device(device, node, arrays), compute_whole(node, arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-35)


INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def test_gelu_is_exact_to_float32_wherever(device: OpenCLDevice) -> None:
    """By a quotient of its own, not the driver's function: also where that would be 1, and of what is no number."""
    x = np.append(np.linspace(-12, 12, 4001), [np.nan, np.inf, -0.0, 1e-30, 3.9 * 2**0.5]).astype(np.float32)
    (found,) = run_on_device(device, *make_node("Gelu", [x], {}))
    expected = np.array([0.5 * v * (1 + math.erf(v * 2**-0.5)) for v in x.astype(float)])
    assert np.isnan(found[4001]) and found[4002] == np.inf
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", ["Abs", "Sign", "BitwiseNot"])
def test_unary_of_integers(device: OpenCLDevice, op: str, dtype: str) -> None:
    x = rng.integers(-40 if dtype[0] == "i" else 0, 41, 123).astype(dtype)
    assert_on_device(device, *make_node(op, [x]), limit=1)


@pytest.mark.parametrize("op", ["Relu", "Neg", "Shrink"])
def test_unary_of_int32(device: OpenCLDevice, op: str) -> None:
    node, arrays = make_node(op, [rng.integers(-40, 41, 123).astype(np.int32)])
    if op == "Shrink" and "float64" not in device.facts.dtypes:
        assert device.declines(node)
        return
    assert_on_device(device, node, arrays, limit=1)


def test_not(device: OpenCLDevice) -> None:
    assert_on_device(device, *make_node("Not", [rng.random((4, 35)) < 0.5]))


NUMBERS = ["float32", "float64", "bool", "int8", "uint8", "uint16", "int32", "int64"]


@pytest.mark.parametrize("source", NUMBERS)
@pytest.mark.parametrize("target", ["float32", "float64", "uint8", "int64", "bool"])
def test_cast(device: OpenCLDevice, source: str, target: str) -> None:
    low = 0 if "u" in source + target else -20
    x = rng.uniform(low, 20, 150).astype(source)
    node, arrays = make_node("Cast", [x], {"to": int(helper.np_dtype_to_tensor_dtype(np.dtype(target)))})
    if {source, target} <= device.facts.dtypes:
        assert_on_device(device, node, arrays, limit=1)
    else:
        assert "float64" in device.declines(node)


@pytest.mark.parametrize("bounds", [(-0.3, 0.4), (None, 0.2), (0.1, None), (0.5, -0.5), (None, None)])
@pytest.mark.parametrize("is_constant", [True, False])
def test_clip(device: OpenCLDevice, bounds: tuple, is_constant: bool) -> None:
    given = [None if b is None else np.float32(b).reshape(()) for b in bounds]
    node, arrays = make_node("Clip", [tame(2, 3, 40), *(Const(np.asarray(b)) if is_constant and b is not None else b for b in given)])
    assert_on_device(device, node, arrays)


BROADCASTS = [((3, 4, 37), (3, 4, 37)), ((2, 5, 4, 6), (1, 5, 1, 1)), ((4, 1, 18), (3, 1)), ((1,), (3, 40)), ((), (5, 5)),
              ((2, 3, 1, 5), (3, 7, 1))]


@pytest.mark.parametrize("op,shapes", [("Add", shapes) for shapes in BROADCASTS] + [(op, BROADCASTS[4]) for op in ("Sub", "Mul", "Div")])
def test_arithmetic(device: OpenCLDevice, op: str, shapes: tuple) -> None:
    assert_on_device(device, *make_node(op, [f32(*s) for s in shapes]))


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_comparison(device: OpenCLDevice, op: str, dtype: str) -> None:
    assert_on_device(device, *make_node(op, [rng.integers(0, 4, 120).astype(dtype) for _ in range(2)]), limit=1)


@pytest.mark.parametrize("op", ["And", "Or", "Xor", "Equal"])
def test_logic(device: OpenCLDevice, op: str) -> None:
    assert_on_device(device, *make_node(op, [rng.random((3, 4, 20)) < 0.5, rng.random((4, 1)) < 0.5]))


@pytest.mark.parametrize("op,attributes", [("Add", {}), ("Sub", {}), ("Mul", {}), ("Div", {}), ("Mod", {}), ("Mod", {"fmod": 1}),
                                           ("BitwiseAnd", {}), ("BitwiseOr", {}), ("BitwiseXor", {}), ("Min", {}), ("Max", {}),
                                           ("PRelu", {})])
@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_integer_arithmetic(device: OpenCLDevice, op: str, attributes: dict, dtype: str) -> None:
    """Divisors of 0 and -1 too: the device must not trap."""
    if op == "PRelu" and dtype == "uint8":
        dtype = "uint32"
    x = rng.integers(-50 if dtype[0] == "i" else 0, 51, 120).astype(dtype)
    y = rng.integers(-3 if dtype[0] == "i" else 0, 4, 120).astype(dtype)
    y = np.where(y == 0, y.dtype.type(5), y) if op in ("Div", "Mod") else y
    assert_on_device(device, *make_node(op, [x, y], attributes), limit=1)


def test_integer_division_by_zero_gives_zero(device: OpenCLDevice) -> None:
    least = np.iinfo(np.int32).min
    node, arrays = make_node("Div", [np.array([5, least, least, 7], np.int32), np.array([1, 1, 1, 1], np.int32)])
    arrays[1] = np.array([0, -1, 2, -2], np.int32)
    np.testing.assert_array_equal(run_on_device(device, node, arrays)[0], [0, least, least // 2, -3])


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float32", "int32"), ("int32", "int32"), ("int64", "float32"),
                                    ("int32", "int64"), ("float32", "uint64")])
def test_pow(device: OpenCLDevice, dtypes: tuple[str, str]) -> None:
    x, y = rng.integers(1, 6, 90).astype(dtypes[0]), rng.integers(0, 5, 90).astype(dtypes[1])
    assert_on_device(device, *make_node("Pow", [x, y]), limit=1)


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int8", "int32"])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shift(device: OpenCLDevice, dtype: str, direction: str) -> None:
    signed = dtype.startswith("i")
    x, y = rng.integers(-100 if signed else 0, 100 if signed else 200, 60).astype(dtype), rng.integers(-4 if signed else 0, 70, 60).astype(dtype)
    node, arrays = make_node("BitShift", [x, y], {"direction": direction}, judge=lambda n, a: [x])
    assert_on_device(device, node, arrays, limit=1)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Min", "Max"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_variadic(device: OpenCLDevice, op: str, count: int) -> None:
    inputs = [f32(3, 4, 20), *(f32(3, 1, 20) if k % 2 else f32(4, 20) for k in range(1, count))]
    inputs[0][0, 0] = np.nan
    assert_on_device(device, *make_node(op, inputs), limit=2)


def test_too_many_operands_are_declined(device: OpenCLDevice) -> None:
    node, _ = make_node("Sum", [f32(2)] * 17)
    assert "17 operands" in device.declines(node)


MANY = (2,) * 9


@pytest.mark.parametrize("op, inputs, attributes", [
    ("Relu", [np.zeros(MANY, np.float32)], {}),
    ("Add", [np.zeros(MANY, np.float32), np.zeros((2, 1) * 4 + (2,), np.float32)], {}),
    ("Concat", [np.zeros(MANY, np.float32)] * 2, {"axis": 4}),
    ("Transpose", [np.zeros(MANY, np.float32)], {"perm": [8, 6, 4, 2, 0, 1, 3, 5, 7]}),
    ("Pad", [np.zeros(MANY, np.float32), Const(np.array([1] * 18, np.int64))], {}),
    ("Expand", [np.zeros((2,) * 5, np.float32), Const(np.array(MANY, np.int64))], {}),
], ids=lambda v: v if isinstance(v, str) else "")
def test_more_than_eight_dimensions_are_declined(device: OpenCLDevice, op: str, inputs: list, attributes: dict) -> None:
    node, _ = make_node(op, inputs, attributes)
    assert "more than 8 dimensions" in device.declines(node)


def test_dimensions_of_extent_one_do_not_count(device: OpenCLDevice) -> None:
    x = np.random.default_rng(0).standard_normal((2, 1, 3, 1, 2, 1, 1, 3, 1, 2)).astype(np.float32)
    assert_on_device(device, *make_node("Add", [x, x[:, :, :1]], {}))
    assert_on_device(device, *make_node("Pad", [x, Const(np.array([0, 0, 1] + [0] * 17, np.int64))], {}))


@pytest.mark.parametrize("fmod", [1])
def test_float_mod(device: OpenCLDevice, fmod: int) -> None:
    assert_on_device(device, *make_node("Mod", [f32(120), f32(120)], {"fmod": fmod}))


def test_prelu(device: OpenCLDevice) -> None:
    assert_on_device(device, *make_node("PRelu", [f32(2, 5, 4, 9), f32(5, 1, 1)]))


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool"])
def test_where(device: OpenCLDevice, dtype: str) -> None:
    x, y = (rng.integers(0, 2 if dtype == "bool" else 100, s).astype(dtype) for s in ((3, 1, 20), (4, 20)))
    assert_on_device(device, *make_node("Where", [rng.random((4, 1)) < 0.5, x, y]))


ACTIVATIONS = [Activation("Relu"), Activation("LeakyRelu", 0.2), Activation("Clip", -0.4, 0.6), Activation("Sigmoid"), Activation("Tanh"),
               Activation("HardSigmoid", 0.2, 0.5), Activation("HardSwish"), Activation("Silu"), Activation("Gelu")]


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_tail(device: OpenCLDevice, activation: Activation | None, dtype: str) -> None:
    """Add, then a residual, then the activation."""
    node, arrays = make_node("Add", [f32(114).astype(dtype), f32(1).astype(dtype)])
    residual = f32(114).astype(dtype)
    value = Value("r", TensorType(residual.dtype, residual.shape))
    node = replace(node, inputs=(*node.inputs, value), residual=True, activation=activation)
    if dtype not in device.facts.dtypes:
        assert dtype in device.declines(node)
        return
    assert_on_device(device, node, [*arrays, residual])


DTYPES = ["float32", "uint8"]


def some(dtype: str, *shape: int) -> np.ndarray:
    return rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape,perm", [((4, 6), (1, 0)), ((2, 3, 4, 5), (0, 2, 3, 1)), ((2, 3, 4, 5), None),
                                        ((3, 1, 2, 4, 2), (4, 0, 3, 1, 2)), ((5,), (0,))])
def test_transpose(device: OpenCLDevice, dtype: str, shape: tuple, perm: tuple | None) -> None:
    assert_on_device(device, *make_node("Transpose", [some(dtype, *shape)], {"perm": perm}))


def ints(*values: int) -> Const:
    return Const(np.array(values, np.int64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("starts,ends,axes,steps", [
    ((1, 0), (3, 5), (0, 1), (1, 1)), ((-1, 8), (-100, 1), (0, 1), (-1, -2)), ((0,), (1000,), (-1,), (3,)), ((2,), (2,), (0,), (1,)),
    ((-2, 0, 1), (4, 9, 5), None, None)])
def test_slice(device: OpenCLDevice, dtype: str, starts: tuple, ends: tuple, axes: tuple | None, steps: tuple | None) -> None:
    rest = [None if axes is None else ints(*axes), None if steps is None else ints(*steps)]
    while rest and rest[-1] is None:
        rest.pop()
    assert_on_device(device, *make_node("Slice", [some(dtype, 4, 9, 6), ints(*starts), ints(*ends), *rest]))


@pytest.mark.parametrize("shape,target", [((3, 1), (2, 1, 6)), ((1,), (4, 5)), ((2, 3, 1, 5), (2, 3, 4, 5)), ((), (3, 2))])
def test_expand(device: OpenCLDevice, shape: tuple, target: tuple) -> None:
    assert_on_device(device, *make_node("Expand", [some("float32", *shape), ints(*target)]))


@pytest.mark.parametrize("shape,repeats", [((3, 4), (2, 3)), ((2, 3, 4), (1, 2, 1)), ((5,), (4,)), ((2, 2), (1, 1))])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_tile(device: OpenCLDevice, dtype: str, shape: tuple, repeats: tuple) -> None:
    assert_on_device(device, *make_node("Tile", [some(dtype, *shape), ints(*repeats)]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(device: OpenCLDevice, dtype: str, axis: int) -> None:
    shapes = [[3, 4, 5] for _ in range(4)]
    for n, shape in enumerate(shapes):
        shape[axis] = (2, 0, 5, 1)[n]
    inputs = [some(dtype, *s) for s in shapes]
    inputs[2] = Const(inputs[2])
    assert_on_device(device, *make_node("Concat", inputs, {"axis": axis}))


@pytest.mark.parametrize("axis,sizes", [(0, (1, 3)), (1, (2, 4)), (-1, (5, 0, 1, 2))])
def test_split(device: OpenCLDevice, axis: int, sizes: tuple) -> None:
    assert_on_device(device, *make_node("Split", [some("float32", 4, 6, 8), ints(*sizes)], {"axis": axis}, n_outputs=len(sizes)))


def test_split_by_number(device: OpenCLDevice) -> None:
    assert_on_device(device, *make_node("Split", [some("float32", 7, 6)], {"axis": 0, "num_outputs": 3}, n_outputs=3))


@pytest.mark.parametrize("op,mode", [("DepthToSpace", "DCR"), ("DepthToSpace", "CRD"), ("SpaceToDepth", None)])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_space(device: OpenCLDevice, op: str, mode: str | None, dtype: str) -> None:
    shape = (2, 12, 3, 4) if op == "DepthToSpace" else (2, 3, 6, 8)
    assert_on_device(device, *make_node(op, [some(dtype, *shape)], {"blocksize": 2, "mode": mode}))


@pytest.mark.parametrize("op,inputs,shape", [
    ("Reshape", [ints(6, 2, 5)], (3, 4, 5)), ("Reshape", [ints(-1)], (3, 4, 5)), ("Reshape", [ints(9, 4)], (6, 6)),
    ("Flatten", [], (2, 3, 4)),
    ("Squeeze", [ints(1)], (3, 1, 4)), ("Unsqueeze", [ints(0, 2)], (3, 4)), ("Identity", [], (3, 4)), ("Identity", [], ()),
    ("Dropout", [], (3, 4))])
def test_views_that_copy(device: OpenCLDevice, op: str, inputs: list, shape: tuple) -> None:
    assert_on_device(device, *make_node(op, [some("float32", *shape), *inputs]))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [(0, 1, 2, 0, 2, 3), (1, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0), (1, -1, 2, 1, 0, -2)])
def test_pad(device: OpenCLDevice, mode: str, pads: tuple) -> None:
    x = some("float32", 3, 5, 6)
    judge = (lambda n, a: [np.zeros([e + pads[d] + pads[d + 3] for d, e in enumerate(x.shape)], np.float32)])
    assert_on_device(device, *make_node("Pad", [x, ints(*pads)], {"mode": mode}, judge=judge))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_constant", [True, False])
def test_pad_value_and_axes(device: OpenCLDevice, dtype: str, is_constant: bool) -> None:
    value = np.array(1, dtype)
    assert_on_device(device, *make_node("Pad", [some(dtype, 3, 2, 6), ints(2, 3), Const(value) if is_constant else value, ints(-1)]))


INDICES = np.array([[0, 3, -1], [-4, 2, 2]], np.int64)


@pytest.mark.parametrize("is_constant", [True, False])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtypes", [("float32", "int64"), ("uint8", "int32")])
def test_gather(device: OpenCLDevice, axis: int, is_constant: bool, dtypes: tuple) -> None:
    shape = [4, 5, 6]
    shape[axis] = 4
    picks = INDICES.astype(dtypes[1])
    assert_on_device(device, *make_node("Gather", [some(dtypes[0], *shape), Const(picks) if is_constant else picks], {"axis": axis}))


def test_gather_one_row(device: OpenCLDevice) -> None:
    assert_on_device(device, *make_node("Gather", [some("float32", 4, 70), Const(np.array(-2, np.int64))]))


def test_indices_out_of_range_read_nothing_outside(device: OpenCLDevice) -> None:
    node, arrays = make_node("Gather", [np.arange(4, dtype=np.float32), np.array([0, 1, 2], np.int64)])
    found = run_on_device(device, node, [arrays[0], np.array([9, -9, 1], np.int64)])[0]
    np.testing.assert_array_equal(found, [3, 0, 1])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements(device: OpenCLDevice, axis: int) -> None:
    picks = rng.integers(-3, 3, (3, 4, 5)).astype(np.int64)
    assert_on_device(device, *make_node("GatherElements", [some("float32", 3, 4, 5), picks], {"axis": axis}))


@pytest.mark.parametrize("shape,picks,batch", [((3, 4, 5), (2, 3), 0), ((3, 4, 5), (6, 2), 0), ((3, 4, 5), (3, 7, 1), 1),
                                               ((2, 3, 4, 5), (2, 3, 2), 1), ((2, 3, 4), (2, 3, 1), 2)])
def test_gather_nd(device: OpenCLDevice, shape: tuple, picks: tuple, batch: int) -> None:
    index = np.stack([rng.integers(-shape[batch + k], shape[batch + k], picks[:-1]) for k in range(picks[-1])], -1).astype(np.int64)
    assert_on_device(device, *make_node("GatherND", [some("float32", *shape), index], {"batch_dims": batch}))


REDUCTIONS = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]


FOLDS = [((5, 40), (1,), 1), ((3, 6, 4, 5), (2, 3), 0), ((4, 3, 21), (0, -1), 0), ((6, 70), None, 1), ((7, 20), (0,), 0)]


@pytest.mark.parametrize("op,shape,axes,keepdims", [
    (op, *fold) for op in REDUCTIONS for fold in (FOLDS if op in ("Sum", "LogSumExp") else FOLDS[2:4])])
def test_reduce(device: OpenCLDevice, op: str, shape: tuple, axes: tuple | None, keepdims: int) -> None:
    x = tame(*shape) + np.float32(1)
    if op == "Prod":
        x = np.sqrt(np.sqrt(x))  # or the product of hundreds is too small for a float32
    assert_on_device(device, *make_node(f"Reduce{op}", [x, *([ints(*axes)] if axes else [])], {"keepdims": keepdims}), ulps=256)


@pytest.mark.parametrize("op", [op for op in REDUCTIONS if not op.startswith("Log")])
def test_reduce_of_integers(device: OpenCLDevice, op: str) -> None:
    x = rng.integers(1, 4, (3, 9)).astype(np.int32)
    node, arrays = make_node(f"Reduce{op}", [x, ints(1)])
    if op in ("Mean", "L2") and "float64" not in device.facts.dtypes:
        assert "double precision" in device.declines(node)
        return
    assert_on_device(device, node, arrays, limit=1)


@pytest.mark.parametrize("op", ["Max", "Min"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool", "int64"])
def test_reduce_extremes_of_integers(device: OpenCLDevice, op: str, dtype: str) -> None:
    assert_on_device(device, *make_node(f"Reduce{op}", [some(dtype, 4, 9), ints(1)]), limit=1)


@pytest.mark.parametrize("op", ["Sum", "SumSquare", "Max"])
def test_reduce_nothing(device: OpenCLDevice, op: str) -> None:
    """No axes and noop: the operator of one element each."""
    x = tame(3, 5)
    node, arrays = make_node(f"Reduce{op}", [x, ints()], {"noop_with_empty_axes": 1}, judge=lambda n, a: [x])
    assert_on_device(device, node, arrays)


def test_log_sum_exp_of_large_values(device: OpenCLDevice) -> None:
    x = np.array([[1000, 1000, -np.inf], [-np.inf] * 3, [np.inf, 1, 2]], np.float32)
    assert_on_device(device, *make_node("ReduceLogSumExp", [x, ints(1)]))


@pytest.mark.parametrize("op", ["Sum", "Prod", "Max", "Min"])
def test_reduce_over_no_element(device: OpenCLDevice, op: str) -> None:
    node, arrays = make_node(f"Reduce{op}", [np.zeros((2, 0, 4), np.float32), ints(1)])
    assert_on_device(device, node, arrays)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis,keepdims,last", [(0, 1, 0), (1, 0, 1), (-1, 0, 0)])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_argument(device: OpenCLDevice, op: str, axis: int, keepdims: int, last: int, dtype: str) -> None:
    x = rng.integers(0, 5, (3, 4, 90)).astype(dtype)
    assert_on_device(device, *make_node(op, [x], {"axis": axis, "keepdims": keepdims, "select_last_index": last}))


@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
@pytest.mark.parametrize("attributes", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
@pytest.mark.parametrize("axis", [0, -1])
def test_running(device: OpenCLDevice, op: str, attributes: dict, axis: int) -> None:
    x = rng.integers(1, 4, (3, 4, 5)).astype(np.float32)
    node, arrays = make_node(op, [x, Const(np.array(axis, np.int64))], attributes, judge=lambda n, a: [x])
    assert_on_device(device, node, arrays)


RESIZES = [
    ((1, 2, 4, 5), (1, 1, 2, 2), {"mode": "nearest"}), ((1, 2, 4, 5), (1, 1, 1.6, 0.7), {"mode": "nearest", "nearest_mode": "floor"}),
    ((1, 2, 4, 5), (1, 1, 2, 2), {"mode": "linear"}),
    ((2, 3, 4, 5), (1, 1, 0.6, 1.7), {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ((1, 2, 6, 6), (1, 1, 0.5, 0.5), {"mode": "linear", "antialias": 1}), ((1, 1, 5, 6), (1, 1, 2, 1.5), {"mode": "cubic"}),
    ((1, 1, 5, 6), (1, 1, 0.8, 2), {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}),
    ((1, 1, 3, 4, 5), (1, 1, 2, 1, 2), {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
    ((6,), (2,), {"mode": "nearest"}),
    ((1, 1, 4, 4), (1, 1, 0.25, 0.25), {"mode": "nearest"}), ((1, 1, 4, 4), (1, 1, 1, 1), {"mode": "linear"})]  # nothing to loop over


@pytest.mark.parametrize("shape,scales,attributes", RESIZES)
def test_resize(device: OpenCLDevice, shape: tuple, scales: tuple, attributes: dict) -> None:
    assert_on_device(device, *make_node("Resize", [f32(*shape), None, Const(np.array(scales, np.float32))], attributes), ulps=256)


def test_resize_crops(device: OpenCLDevice) -> None:
    roi = Const(np.array([0, 0, 0.4, 0.6, 1, 1, 1.2, 1.7], np.float32))
    attributes = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 10.0}
    assert_on_device(device, *make_node("Resize", [f32(1, 2, 4, 4), roi, None, ints(1, 2, 3, 5)], attributes), ulps=256)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_of_integers(device: OpenCLDevice, dtype: str, mode: str) -> None:
    x = rng.integers(0, 127, (1, 1, 4, 5)).astype(dtype)
    assert_on_device(device, *make_node("Resize", [x, None, Const(np.array((1, 1, 2, 2), np.float32))], {"mode": mode}))


def test_known_tensors(device: OpenCLDevice) -> None:
    x = f32(3, 4)
    assert_on_device(device, *make_node("Shape", [x]))
    assert_on_device(device, *make_node("Size", [x]))
    assert_on_device(device, *make_node("EyeLike", [x], {"k": 1}))
    assert_on_device(device, *make_node("Range", [Const(np.array(v, np.float32)) for v in (1, 7, 2)]))
    assert_on_device(device, *make_node("ConstantOfShape", [ints(2, 3)], {"value": np.array([2.5], np.float32)}))


@pytest.fixture(scope="session")
def as_gpu(device: OpenCLDevice) -> OpenCLDevice:
    """The same device, taken for a real GPU: work-groups share lines, vectors are short."""
    other = OpenCLDevice(device.device, device.sharing)
    other.facts = replace(device.facts, emulated=False)
    return other


@pytest.mark.parametrize("op,inputs,attributes", [
    ("Softmax", [f32(5, 200)], {}), ("LogSoftmax", [f32(130, 3)], {"axis": 0}), ("ReduceSum", [f32(4, 333), ints(1)], {}),
    ("ReduceLogSumExp", [f32(3, 100, 4), ints(1)], {"keepdims": 0}), ("ReduceMax", [f32(3, 4, 100), ints(0, 2)], {}),
    ("ArgMax", [rng.integers(0, 9, (3, 100)).astype(np.float32)], {"axis": 1}),
    ("ArgMin", [rng.integers(0, 9, (100, 3)).astype(np.int32)], {"axis": 0, "select_last_index": 1}),
    ("Add", [f32(3, 4, 301), f32(4, 1)], {}),
    ("Transpose", [f32(20, 70)], {}), ("Pad", [f32(3, 90), ints(1, 2, 3, 4)], {"mode": "edge"}),
    # work-groups that reach beyond the last output
    ("Conv", [f32(1, 3, 9, 11), Const(f32(3, 1, 3, 3))], {"group": 3}), ("Conv", [f32(1, 2, 5, 11), Const(f32(3, 2, 3, 3))], {"method": "direct"}),
    ("MaxPool", [f32(1, 2, 9, 12)], {"kernel_shape": [2, 2]}), ("LRN", [f32(2, 3, 5, 7)], {"size": 3}), ("MatMul", [f32(3, 2), f32(2, 5)], {})],
                         ids=lambda v: v if isinstance(v, str) else "")
def test_as_a_gpu(as_gpu: OpenCLDevice, op: str, inputs: list, attributes: dict) -> None:
    method = {"method": attributes["method"]} if "method" in attributes else {}
    node, arrays = make_node(op, inputs, {k: v for k, v in attributes.items() if k not in method})
    assert_on_device(as_gpu, replace(node, attributes={**node.attributes, **method}), arrays, ulps=256)

"""Light operators on the device, whole and in pieces, in tight and loose memory, against the operators' own meaning."""

from __future__ import annotations

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


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 30.0, -30.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 100.0, 7.25], np.float32)
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
    x = tame(3, 5, 37) + (1.96 if op == "Acosh" else 0)
    assert_on_device(device, *make_node(op, [x.astype(np.float32)], attributes), limit=2)


SMOOTH = {"Relu", "Abs", "Neg", "Sign", "Sigmoid", "Softplus", "Reciprocal", "Ceil", "Floor", "Round", "Tanh", "Sqrt", "Exp", "Log", "Erf",
          "LeakyRelu", "Elu", "ThresholdedRelu", "IsNaN", "IsInf", "Atan", "Asinh"}


@pytest.mark.parametrize("op,attributes", [(o, a) for o, a in UNARY if o in SMOOTH])
def test_unary_of_special_values(device: OpenCLDevice, op: str, attributes: dict) -> None:
    """Zeros, infinities, NaN, halves: elementwise, so that a large value does not widen the tolerance of a small one."""
    node, arrays = make_node(op, [SPECIAL], attributes)
    (found,), (expected,) = run_on_device(device, node, arrays), compute_whole(node, arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-35)


INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", ["Abs", "Sign", "BitwiseNot"])
def test_unary_of_integers(device: OpenCLDevice, op: str, dtype: str) -> None:
    x = rng.integers(-40 if dtype[0] == "i" else 0, 41, (3, 41)).astype(dtype)
    assert_on_device(device, *make_node(op, [x]), limit=1)


@pytest.mark.parametrize("op", ["Relu", "Neg", "Shrink"])
def test_unary_of_int32(device: OpenCLDevice, op: str) -> None:
    node, arrays = make_node(op, [rng.integers(-40, 41, (3, 41)).astype(np.int32)])
    if op == "Shrink" and "float64" not in device.facts.dtypes:
        assert device.declines(node)
        return
    assert_on_device(device, node, arrays, limit=1)


def test_not(device: OpenCLDevice) -> None:
    assert_on_device(device, *make_node("Not", [rng.random((4, 35)) < 0.5]))


NUMBERS = ["float32", "float64", "bool", *INTEGERS]


@pytest.mark.parametrize("source", NUMBERS)
@pytest.mark.parametrize("target", ["float32", "float64", "int8", "uint8", "int32", "int64", "bool"])
def test_cast(device: OpenCLDevice, source: str, target: str) -> None:
    low = 0 if "u" in source + target else -20
    x = rng.uniform(low, 20, (3, 50)).astype(source)
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


BROADCASTS = [((3, 4, 37), (3, 4, 37)), ((2, 5, 4, 6), (1, 5, 1, 1)), ((4, 1, 18), (3, 1)), ((1,), (3, 40)), ((), (5, 5)), ((2, 3, 1, 5), (3, 7, 1))]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shapes", BROADCASTS)
def test_arithmetic(device: OpenCLDevice, op: str, shapes: tuple) -> None:
    assert_on_device(device, *make_node(op, [f32(*s) for s in shapes]))


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "uint8"])
def test_comparison(device: OpenCLDevice, op: str, dtype: str) -> None:
    assert_on_device(device, *make_node(op, [rng.integers(0, 4, (3, 40)).astype(dtype), rng.integers(0, 4, (40,)).astype(dtype)]), limit=1)


@pytest.mark.parametrize("op", ["And", "Or", "Xor", "Equal"])
def test_logic(device: OpenCLDevice, op: str) -> None:
    assert_on_device(device, *make_node(op, [rng.random((3, 4, 20)) < 0.5, rng.random((4, 1)) < 0.5]))


@pytest.mark.parametrize("op,attributes", [("Add", {}), ("Sub", {}), ("Mul", {}), ("Div", {}), ("Mod", {}), ("Mod", {"fmod": 1}),
                                           ("BitwiseAnd", {}), ("BitwiseOr", {}), ("BitwiseXor", {}), ("Min", {}), ("Max", {}), ("PRelu", {})])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "int8"])
def test_integer_arithmetic(device: OpenCLDevice, op: str, attributes: dict, dtype: str) -> None:
    """Divisors of 0 and -1 too: the device must not trap."""
    if op == "PRelu" and dtype in ("int8", "uint8"):
        dtype = "uint32"
    x = rng.integers(-50 if dtype[0] == "i" else 0, 51, (3, 40)).astype(dtype)
    y = rng.integers(-3 if dtype[0] == "i" else 0, 4, (3, 40)).astype(dtype)
    y = np.where(y == 0, y.dtype.type(5), y) if op in ("Div", "Mod") else y
    assert_on_device(device, *make_node(op, [x, y], attributes), limit=1)


def test_integer_division_by_zero_gives_zero(device: OpenCLDevice) -> None:
    least = np.iinfo(np.int32).min
    node, arrays = make_node("Div", [np.array([5, least, least, 7], np.int32), np.array([1, 1, 1, 1], np.int32)])
    arrays[1] = np.array([0, -1, 2, -2], np.int32)
    np.testing.assert_array_equal(run_on_device(device, node, arrays)[0], [0, least, least // 2, -3])


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float32", "int32"), ("int32", "int32"), ("int64", "float32"), ("int32", "int64"),
                                    ("float32", "uint64")])
def test_pow(device: OpenCLDevice, dtypes: tuple[str, str]) -> None:
    x, y = rng.integers(1, 6, (3, 30)).astype(dtypes[0]), rng.integers(0, 5, (30,)).astype(dtypes[1])
    assert_on_device(device, *make_node("Pow", [x, y]), limit=1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shift(device: OpenCLDevice, dtype: str, direction: str) -> None:
    x, y = rng.integers(0, 200, (3, 20)).astype(dtype), rng.integers(0, 70, (3, 20)).astype(dtype)
    node, arrays = make_node("BitShift", [x, y], {"direction": direction}, judge=lambda n, a: [x])
    assert_on_device(device, node, arrays, limit=1)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Min", "Max"])
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_variadic(device: OpenCLDevice, op: str, count: int) -> None:
    inputs = [f32(3, 1, 20) if k % 2 else f32(4, 20) for k in range(count)]
    inputs[0][0, 0] = np.nan
    assert_on_device(device, *make_node(op, inputs), limit=2)


def test_too_many_operands_are_declined(device: OpenCLDevice) -> None:
    node, _ = make_node("Sum", [f32(2)] * 17)
    assert "17 operands" in device.declines(node)


@pytest.mark.parametrize("fmod", [1])
def test_float_mod(device: OpenCLDevice, fmod: int) -> None:
    assert_on_device(device, *make_node("Mod", [f32(3, 40), f32(3, 40)], {"fmod": fmod}))


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
    node, arrays = make_node("Add", [f32(2, 6, 19).astype(dtype), f32(6, 1).astype(dtype)])
    residual = f32(2, 6, 19).astype(dtype)
    value = Value("r", TensorType(residual.dtype, residual.shape))
    node = replace(node, inputs=(*node.inputs, value), residual=True, activation=activation)
    if dtype not in device.facts.dtypes:
        assert dtype in device.declines(node)
        return
    assert_on_device(device, node, [*arrays, residual])

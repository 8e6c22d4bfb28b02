"""Half and the types that NumPy lacks on the device: they are held as bits, computed in float, and rounded once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from coexec.devices.cpu import CpuDevice
from coexec.devices.opencl.device import OpenCLDevice
from coexec.graph.ir import Node, TensorType, Value
from coexec.ops.narrow import NARROW, SMALL_INTEGERS
from tests.ops.law import Const, compute_whole, make_node, ort_reference, reference
from tests.ops.test_cast import FORMS, assert_same_bits, cast_node, dtype_of, real_numbers

from .harness import assert_on_device, run_on_device

rng = np.random.default_rng(21)


#: Every form from some types, and from the others, whose way in is another, those without attributes.
CASTS = [(name, attributes, source) for source in ("float32", "float64", "float16", "int32", "bool") for name, attributes in FORMS
         if source in ("float32", "float16") or not attributes]


@pytest.mark.parametrize("name, attributes, source", CASTS)
def test_casts_to_narrow_types_are_the_same_bits_on_both_devices(device: OpenCLDevice, name: str, attributes: dict, source: str) -> None:
    x = real_numbers()
    if source in ("int32", "bool") or name in SMALL_INTEGERS:
        x = np.trunc(x[np.abs(x) < 100])
    with np.errstate(all="ignore"):
        node, arrays = cast_node(x.astype(source), name, **attributes)
    found, expected = run_on_device(device, node, arrays)[0], compute_whole(node, arrays)[0]
    if name == "float4_e2m1fn":  # it has no NaN: one becomes a zero, with the NaN's sign, which a driver may drop on the way
        found = np.where(np.isnan(arrays[0].astype(np.float32)), np.abs(found), found)
        expected = np.where(np.isnan(arrays[0].astype(np.float32)), np.abs(expected), expected)
    assert_same_bits(found, expected)


@pytest.mark.parametrize("name", sorted(NARROW))
@pytest.mark.parametrize("target", ["float32", "float16", "int8", "bool", "bfloat16"])
def test_every_code_of_a_narrow_type(device: OpenCLDevice, name: str, target: str) -> None:
    dtype = dtype_of(name)
    bits = 4 if name == "float4_e2m1fn" else 8 * dtype.itemsize  # of the integers, bits above the value's own are ignored
    x = np.arange(2**bits, dtype=f"uint{8 * dtype.itemsize}").view(dtype)
    with np.errstate(all="ignore"):
        if target == "int8":
            x = x[np.abs(x.astype(np.float32)) < 128]
        node, arrays = cast_node(x, target)
    (found,), (expected,) = run_on_device(device, node, arrays), compute_whole(node, arrays)
    if target == "bfloat16":
        assert_same_bits(found, expected)
    else:
        np.testing.assert_array_equal(found, expected)


def test_every_half_and_every_rounding_to_half(device: OpenCLDevice) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    node, arrays = make_node("Cast", [halves], {"to": 1})
    np.testing.assert_array_equal(run_on_device(device, node, arrays)[0], halves.astype(np.float32))
    with np.errstate(all="ignore"):
        between = [h + (n - h) * np.float32(f) for h, n in [(halves[:31744].astype(np.float32), halves[1:31745].astype(np.float32))]
                   for f in (0.25, 0.5, 0.75)]
        x = np.concatenate([*between, *(-b for b in between), real_numbers(100000)])
        node, arrays = make_node("Cast", [x], {"to": 10})
    np.testing.assert_array_equal(run_on_device(device, node, arrays)[0], compute_whole(node, arrays)[0])


@pytest.mark.parametrize("source, target", [("bfloat16", "float32"), ("float32", "bfloat16"), ("float16", "float8_e5m2"), ("int4", "float16"),
                                            ("float8_e4m3fn", "bfloat16"), ("float32", "uint2")])
def test_casts_in_pieces_and_loose_memory(device: OpenCLDevice, source: str, target: str) -> None:
    low = 0 if "u" in source + target else -2
    x = rng.uniform(low, 2, (3, 5, 67)).astype(np.float32).astype(dtype_of(source))
    assert_on_device(device, *cast_node(x, target), limit=2)


def half(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float16)


def weight(*shape: int) -> Const:
    return Const(half(*shape))


def ints(*values: int) -> Const:
    return Const(np.array(values, np.int64))


IMAGE = half(1, 4, 7, 9)
HALF: list[tuple[str, list, dict[str, Any]]] = [
    ("Sigmoid", [half(3, 50)], {}), ("Celu", [half(3, 50)], {"alpha": 2.0}), ("Gelu", [half(40)], {}), ("IsNaN", [half(40)], {}),
    ("LeakyRelu", [half(40)], {"alpha": 0.3}), ("Clip", [half(70), np.float16(-0.5).reshape(()), np.float16(0.5).reshape(())], {}),
    ("Add", [IMAGE, half(1, 4, 1, 1)], {}), ("Mul", [half(3, 70), half(70)], {}), ("Max", [half(3, 40), half(40)], {}),
    ("Mod", [half(3, 40), half(3, 40)], {"fmod": 1}), ("Less", [half(3, 40), half(3, 40)], {}),
    ("Where", [rng.random((3, 40)) < 0.5, half(3, 40), half(40)], {}), ("Sum", [half(3, 40)] * 2, {}),
    ("Transpose", [IMAGE], {"perm": [0, 2, 3, 1]}), ("Slice", [IMAGE, ints(1, -1), ints(4, -8), ints(1, 2), ints(1, -2)], {}),
    ("Concat", [IMAGE, half(1, 2, 7, 9)], {"axis": 1}), ("Pad", [IMAGE, ints(0, 0, 1, 2, 0, 0, 1, 2)], {"mode": "reflect"}),
    ("Gather", [half(6, 5), ints(4, 0, -1)], {}), ("Expand", [half(3, 1), ints(2, 3, 4)], {}), ("Split", [half(6, 5), ints(2, 4)], {}),
    ("Softmax", [half(3, 40)], {}), ("LogSoftmax", [IMAGE], {"axis": 1}), ("Hardmax", [half(3, 40)], {}),
    ("ReduceSum", [half(3, 50), ints(1)], {}), ("ReduceMean", [IMAGE, ints(2, 3)], {}), ("ReduceMax", [IMAGE, ints(1)], {}),
    ("ReduceLogSumExp", [half(3, 50), ints(1)], {}), ("ArgMax", [half(3, 50)], {"axis": 1}), ("CumSum", [half(3, 9), ints(1)], {}),
    ("Conv", [IMAGE, weight(5, 4, 3, 3), weight(5)], {"pads": [1, 1, 1, 1]}), ("Conv", [half(1, 2, 3, 4, 5), weight(3, 2, 2, 2, 2)], {}),
    ("Conv", [IMAGE, weight(4, 1, 3, 3), weight(4)], {"group": 4, "pads": [1, 1, 1, 1]}),
    ("Conv", [IMAGE, weight(6, 2, 3, 3)], {"group": 2, "strides": [2, 2]}),
    ("ConvTranspose", [IMAGE, weight(4, 3, 3, 3), weight(3)], {"strides": [2, 2]}),
    ("Gemm", [half(3, 18), weight(19, 18), weight(19)], {"transB": 1}), ("MatMul", [half(2, 5, 6), half(2, 6, 7)], {}),
    ("MatMul", [half(9, 16), half(16, 17)], {}),
    ("MaxPool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [IMAGE], {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1]}), ("GlobalAveragePool", [IMAGE], {}), ("GlobalMaxPool", [IMAGE], {}),
    ("LpPool", [IMAGE], {"kernel_shape": [2, 2], "p": 2}),
    ("BatchNormalization", [IMAGE, weight(4), weight(4), weight(4), Const(np.full(4, 0.7, np.float16))], {}),
    ("BatchNormalization", [IMAGE, half(4), half(4), half(4), np.full(4, 0.7, np.float16)], {}),
    ("InstanceNormalization", [IMAGE, weight(4), weight(4)], {}), ("LayerNormalization", [half(2, 3, 17), weight(17), weight(17)], {}),
    ("GroupNormalization", [IMAGE, weight(4), weight(4)], {"num_groups": 2}), ("LRN", [IMAGE], {"size": 3}),
    ("Resize", [IMAGE, None, Const(np.array([1, 1, 2, 2], np.float32))], {"mode": "nearest"}),
    ("Resize", [IMAGE, None, Const(np.array([1, 1, 1.5, 2], np.float32))], {"mode": "linear"}), ("DepthToSpace", [IMAGE], {"blocksize": 2}),
]


def judge(node: Node, arrays: list) -> list:
    """The outputs' types; onnx's reference stumbles over half in places, so that single precision is asked there."""
    try:
        return reference(node, arrays)
    except (RuntimeError, ValueError, TypeError):
        wide = [None if a is None else a.astype(np.float32) if a.dtype == np.float16 else a for a in arrays]
        values = (None if v is None else Value(v.name, TensorType(w.dtype, w.shape), w if v.is_constant else None)
                  for v, w in zip(node.inputs, wide))
        found = ort_reference(Node(node.op_type, tuple(values), node.outputs, node.attributes, name=node.name), wide)
        return [None if f is None else f.astype(np.float16) for f in found]


@pytest.mark.parametrize("op_type, inputs, attributes", HALF, ids=lambda v: v if isinstance(v, str) else "")
def test_half_in_every_family(device: OpenCLDevice, op_type: str, inputs: list, attributes: dict) -> None:
    node, arrays = make_node(op_type, inputs, attributes, 2 if op_type == "Split" else 1, judge=judge)
    assert_on_device(device, node, arrays, limit=2)


def test_softmax_of_half_rounds_once(device: OpenCLDevice) -> None:
    """What is stored meanwhile must not be rounded: sums of many small terms would show it."""
    x = rng.standard_normal((4, 300)).astype(np.float16)
    node, arrays = make_node("Softmax", [x])
    wide = np.exp(x.astype(np.float64))
    expected = wide / wide.sum(axis=1, keepdims=True)
    found = run_on_device(device, node, arrays)[0].astype(np.float64)
    assert (np.abs(found - expected) <= 0.51 * np.spacing(expected.astype(np.float16)).astype(np.float64)).all()


@pytest.mark.parametrize("op_type, attributes", [("Celu", {}), ("Relu", {}), ("Abs", {}), ("Gelu", {}), ("IsInf", {}),
                                                 ("ThresholdedRelu", {"alpha": 0.3})])
def test_functions_of_bfloat16(device: OpenCLDevice, op_type: str, attributes: dict) -> None:
    x = rng.standard_normal((3, 70)).astype(np.float32).astype(ml_dtypes.bfloat16)
    kind = np.dtype(bool) if op_type == "IsInf" else x.dtype
    assert_on_device(device, *make_node(op_type, [x], attributes, judge=lambda n, a: [np.zeros(x.shape, kind)]), limit=1)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e5m2", "int4"])
def test_elements_of_any_type_are_moved(device: OpenCLDevice, name: str) -> None:
    x = rng.integers(0, 4, (2, 3, 4)).astype(np.float32).astype(dtype_of(name))
    for op_type, inputs, attributes in (("Transpose", [x], {}), ("Reshape", [x, ints(4, 6)], {}), ("Concat", [x, x], {"axis": 1}),
                                        ("Slice", [x, ints(1), ints(3), ints(2)], {}), ("Gather", [x, ints(2, 0)], {"axis": 1}),
                                        ("Expand", [x, ints(2, 2, 3, 4)], {}), ("Tile", [x, ints(1, 2, 1)], {})):
        assert_on_device(device, *make_node(op_type, inputs, attributes, judge=None if op_type != "Tile" else lambda n, a: [np.tile(x, (1, 2, 1))]),
                         limit=1)


def test_what_no_kernel_computes_is_declined(device: OpenCLDevice) -> None:
    value = Value("x", TensorType(dtype_of("float8_e5m2"), (4, 4)))
    assert "reference only" in device.declines(Node("Relu", (value,), (Value("y", value.type),), {}, name="relu"))


@pytest.mark.parametrize("shape", [(4, 5, 6, 7), (2, 3), (1, 1, 40)])
@pytest.mark.parametrize("outputs", [[True], [True, True, True], [True, False, True]])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_batch_normalization_in_training(device: OpenCLDevice, shape: tuple, outputs: list, dtype: str) -> None:
    x, parameters = rng.standard_normal(shape).astype(dtype), [rng.uniform(0.5, 2, shape[1]).astype(dtype) for _ in range(4)]
    node, arrays = make_node("BatchNormalization", [x, *parameters], {"training_mode": 1, "momentum": 0.7}, outputs,
                             judge=lambda n, a: [x, *parameters[2:]])
    assert_on_device(device, node, arrays, ulps=2048)


@pytest.mark.parametrize("inputs", [[], [np.float32(0.3).reshape(()), np.array(True)], [np.float16(0.3).reshape(()), Const(np.array(True))],
                                    [np.float32(0).reshape(()), np.array(True)], [np.float32(0.3).reshape(()), np.array(False)],
                                    [None, np.array(True)], [np.float32(2.0**-40).reshape(()), np.array(True)]])
@pytest.mark.parametrize("outputs", [[True, True], [True, False]])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_dropout_draws_the_numbers_of_the_reference(device: OpenCLDevice, inputs: list, outputs: list, dtype: str) -> None:
    x = rng.standard_normal((31, 43)).astype(dtype)  # more numbers than the generator makes at a time
    node, arrays = make_node("Dropout", [x, *inputs], {"seed": 2**32 - 3}, outputs, judge=lambda n, a: [x, np.ones(x.shape, bool)])
    assert_on_device(device, node, arrays)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e8m0fnu", "int4"])
def test_the_cpu_takes_the_same_types(name: str) -> None:
    cpu = CpuDevice()
    x = rng.integers(1, 4, (2, 3, 20)).astype(np.float32).astype(dtype_of(name))
    for op_type, inputs, attributes in (("Transpose", [x], {}), ("Transpose", [x], {"perm": [0, 2, 1]}), ("Concat", [x, x], {"axis": 1}),
                                        ("Slice", [x, ints(1), ints(3), ints(2)], {}), ("Gather", [x, ints(2, 0)], {"axis": 1}),
                                        ("Expand", [x, ints(2, 2, 3, 20)], {}), ("Reshape", [x, ints(12, 10)], {})):
        assert_on_device(cpu, *make_node(op_type, inputs, attributes), limit=1)
    assert_on_device(cpu, *cast_node(x, "float32"), limit=1)
    assert_on_device(cpu, *cast_node(x.astype(np.float32), name), limit=1)

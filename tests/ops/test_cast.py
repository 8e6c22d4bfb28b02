"""Casts to and from the types NumPy lacks: bit for bit what onnx's reference says, and every type's codes one by one."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from coexec.ops.narrow import NARROW, SCALE, SMALL_FLOATS, SMALL_INTEGERS, computed_in, is_narrow

from .law import assert_law, assert_matches, compute_whole, make_node, native, reference

SPECIAL = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 1e38, 3e38, -3e38, 1.5, 448, 463.9, 464, 464.1, 57344, 61439, 61440, 61441,
                    240, 248, 249, 6, 7, 1e9, 0.25, 0.75, 2.5, 5, -5, 2.0**-10, 3 * 2.0**-11, 2.0**-127, 1.5 * 2.0**-127], np.float32)


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def real_numbers(count: int = 4000) -> np.ndarray:
    """Every exponent, with its neighbours; and special values."""
    rng = np.random.default_rng(3)
    return np.concatenate([SPECIAL, (rng.standard_normal(count) * 2.0 ** rng.integers(-20, 20, count)).astype(np.float32),
                           rng.integers(0, 2**32, count, np.uint64).astype(np.uint32).view(np.float32)])


def cast_node(x: np.ndarray, name: str, **attributes):
    return make_node("Cast", [x], {"to": int(helper.np_dtype_to_tensor_dtype(dtype_of(name))), **attributes})


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal codes; one NaN is as good as another, whatever its sign."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    view = np.uint16 if found.dtype.itemsize == 2 else np.uint8
    with np.errstate(invalid="ignore"):
        nan = np.zeros(found.shape, bool) if found.dtype.name in SMALL_INTEGERS else np.isnan(found.astype(np.float32))
        assert (nan == (False if found.dtype.name in SMALL_INTEGERS else np.isnan(expected.astype(np.float32)))).all()
    different = (found.view(view) != expected.view(view)) & ~nan
    assert not different.any(), f"{found[different][:5]} instead of {expected[different][:5]}"


FORMS = [(name, {}) for name in sorted(NARROW)] + [(name, {"saturate": 0}) for name in sorted(SMALL_FLOATS) if name.startswith("float8")]
FORMS += [(SCALE, {"round_mode": mode, "saturate": s}) for mode in ("up", "down", "nearest") for s in (0, 1)]


@pytest.mark.parametrize("name, attributes", FORMS)
@pytest.mark.parametrize("source", ["float32", "float16", "float64", "int32", "uint8", "bool"])
def test_casts_equal_the_reference_bit_for_bit(name, attributes, source):
    x = real_numbers()
    if source in ("int32", "uint8", "bool") or name in SMALL_INTEGERS:
        x = np.trunc(x[np.abs(x) < 100]) if source != "uint8" else np.abs(np.trunc(x[np.abs(x) < 100]))
    with np.errstate(over="ignore"):
        node, arrays = cast_node(x.astype(source), name, **attributes)
    with np.errstate(all="ignore"):
        expected = reference(node, arrays)[0]
    found = compute_whole(node, arrays)[0]
    if name == "float8_e8m0fnu" and source == "float64":
        expected = reference(*cast_node(arrays[0].astype(np.float32), name, **attributes))[0]
    assert_same_bits(found, expected)
    assert_law(node, np.random.default_rng(0), [arrays[0]], ulps=1)


@pytest.mark.parametrize("name", sorted(NARROW))
@pytest.mark.parametrize("target", ["float32", "float16", "int8", "bool"])
def test_every_code_of_a_narrow_type(name, target):
    dtype = dtype_of(name)
    bits = SMALL_INTEGERS.get(name, 4 if name == "float4_e2m1fn" else 8 * dtype.itemsize)
    codes = np.arange(2**bits, dtype=f"uint{8 * dtype.itemsize}")
    node, arrays = cast_node(codes.view(dtype), target)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(compute_whole(node, arrays)[0], reference(node, arrays)[0])


def test_the_table_of_formats_is_that_of_ml_dtypes():
    for name, form in SMALL_FLOATS.items():
        info = ml_dtypes.finfo(dtype_of(name))
        assert (form.maximum, form.mantissa, form.exponent) == (float(info.max), info.nmant, info.bits - 1 - info.nmant)
        assert np.array(form.largest, np.uint8).view(dtype_of(name)) == info.max
    assert all(is_narrow(dtype_of(n)) for n in NARROW) and not is_narrow(np.dtype(np.float16))
    assert computed_in(dtype_of("int4")) == np.int32 and computed_in(dtype_of("bfloat16")) == computed_in(np.float16) == np.float32


@pytest.mark.parametrize("op_type, attributes", [("Celu", {"alpha": 2.0}), ("Relu", {}), ("Exp", {}), ("IsNaN", {}), ("Gelu", {}), ("Clip", {})])
def test_functions_of_bfloat16_are_computed_in_float32(op_type, attributes):
    x = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32).astype(ml_dtypes.bfloat16)
    wide, _ = make_node(op_type, [x.astype(np.float32)], attributes)
    expected = compute_whole(wide, [x.astype(np.float32)])[0]
    node, arrays = make_node(op_type, [x], attributes, judge=lambda n, a: [expected.astype(bool if op_type == "IsNaN" else x.dtype)])
    np.testing.assert_array_equal(compute_whole(node, arrays)[0], expected.astype(node.output.dtype))
    assert_law(node, np.random.default_rng(0), arrays)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e5m2", "int4"])
def test_narrow_types_are_moved(name):
    from .law import Const

    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4).astype(dtype_of(name))
    ints = lambda *v: Const(np.array(v, np.int64))  # noqa: E731
    for op_type, inputs, attributes in (("Transpose", [x], {}), ("Reshape", [x, ints(4, 6)], {}), ("Concat", [x, x], {"axis": 1}),
                                        ("Slice", [x, ints(1), ints(3), ints(2)], {}), ("Gather", [x, ints(2, 0)], {"axis": 1}),
                                        ("Expand", [x, ints(2, 2, 3, 4)], {}), ("Identity", [x], {})):
        node, arrays = make_node(op_type, inputs, attributes)
        assert native(node) is not None
        assert_matches(node, arrays)
        assert_law(node, np.random.default_rng(0), arrays)

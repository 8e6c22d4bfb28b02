"""The compute-heavy OpenCL families: whole nodes and pieces of them, in tight and loose memory, equal the operators' own meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coexec.devices.opencl import program
from coexec.devices.opencl.tiles import Tiles, tiles_for
from coexec.devices.opencl.winograd import Winograd
from coexec.graph.ir import Activation, Node, TensorType, Value
from coexec.ops import conv_ways
from coexec.regions import Region
from tests.device.harness import assert_on_device, run_on_device
from tests.ops.law import Const, compute_whole, make_node, ort_reference, reference, with_output_types

#: 1e-4 of the largest magnitude, in units of float32's epsilon; Winograd may be ten times that.
CLOSE, CLOSE_WINOGRAD = 838, 8380
RNG = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def weights(*shape: int) -> Const:
    return Const(floats(*shape))


def _judge(node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    """Types and shapes of the outputs; onnx's reference stumbles over some nodes, onnxruntime over others."""
    if node.op_type.startswith("Global"):
        return [np.zeros((*arrays[0].shape[:2], *(1,) * (arrays[0].ndim - 2)), arrays[0].dtype)]
    try:
        return reference(node, arrays)
    except (RuntimeError, ValueError, TypeError):
        return ort_reference(node, arrays)


def build(op_type: str, inputs: Sequence[Any], attributes: dict[str, Any] | None = None, n_outputs: Any = 1,
          method: str = "") -> tuple[Node, list]:
    node, arrays = make_node(op_type, inputs, attributes, n_outputs, judge=_judge)
    return (replace(node, attributes={**node.attributes, "method": method}) if method else node), arrays


def fused(node: Node, arrays: Sequence[np.ndarray | None], activation: Activation) -> tuple[Node, list]:
    residual = floats(*node.output.shape).astype(node.output.dtype)
    value = Value("residual", TensorType(residual.dtype, residual.shape))
    return replace(node, inputs=(*node.inputs, value), residual=True, activation=activation), [*arrays, residual]


def check(device: Any, node: Node, arrays: Sequence[np.ndarray | None], ulps: float = CLOSE, tail: bool = True) -> None:
    assert_on_device(device, node, arrays, ulps)
    if tail and node.output.dtype.kind == "f":
        assert_on_device(device, *fused(node, arrays, Activation("LeakyRelu", 0.25)), ulps, limit=1)


CONVS = {
    "3x3": ((1, 16, 14, 14), (24, 16, 3, 3), dict(pads=[1, 1, 1, 1])),
    "1x1": ((2, 16, 9, 40), (20, 16, 1, 1), {}),
    "maps of one pixel": ((3, 40, 1, 1), (150, 40, 1, 1), {}),
    "1x1 strided": ((1, 9, 9, 20), (7, 9, 1, 1), dict(strides=[2, 2])),
    "grouped, dilated, uneven pads": ((2, 6, 9, 11), (10, 3, 3, 3), dict(group=2, strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2])),
    "wide filter, SAME": ((1, 8, 7, 50), (20, 8, 3, 5), dict(auto_pad="SAME_UPPER", strides=[1, 3])),
    "one row of output": ((1, 5, 3, 70), (4, 5, 3, 3), {}),
    "pads beyond the input": ((1, 3, 4, 4), (5, 3, 3, 3), dict(pads=[3, 4, 2, 5])),
    "1-D": ((1, 5, 37), (9, 5, 5), dict(strides=[2], pads=[3, 1])),
    "3-D": ((1, 3, 5, 6, 7), (4, 3, 2, 3, 2), dict(pads=[1, 0, 1, 0, 1, 1], strides=[1, 2, 1])),
    "depthwise 3x3": ((1, 12, 15, 17), (12, 1, 3, 3), dict(group=12, pads=[1, 1, 1, 1])),
    "depthwise 5x5 strided": ((2, 4, 15, 37), (4, 1, 5, 5), dict(group=4, pads=[2, 2, 2, 2], strides=[2, 2])),
    "depthwise, narrow": ((1, 20, 7, 7), (20, 1, 3, 3), dict(group=20, pads=[1, 1, 1, 1])),
    "depthwise, two by five": ((1, 5, 9, 21), (5, 1, 2, 5), dict(group=5, pads=[0, 2, 1, 2], strides=[2, 1])),
    "depthwise, odd": ((1, 6, 15, 33), (6, 1, 3, 4), dict(group=6, pads=[0, 2, 1, 1], strides=[1, 3], dilations=[2, 1])),
    "depthwise, two per channel": ((1, 4, 9, 9), (8, 1, 3, 3), dict(group=4, pads=[1, 1, 1, 1])),
}


@pytest.mark.parametrize("method", ["", "tiled", "direct"])
@pytest.mark.parametrize("case", CONVS)
def test_conv(device, case, method):
    x, w, attributes = CONVS[case]
    node, arrays = build("Conv", [floats(*x), weights(*w), weights(w[0])], attributes, method=method)
    check(device, node, arrays, tail=not method)


@pytest.mark.parametrize("x, w, attributes", [
    ((1, 16, 14, 14), (24, 16, 3, 3), dict(pads=[1, 1, 1, 1])),
    ((2, 6, 9, 70), (5, 6, 3, 3), dict(pads=[2, 3, 1, 0])),
    ((1, 8, 3, 5), (20, 8, 3, 3), dict(pads=[1, 1, 1, 1])),
    ((1, 6, 28, 31), (20, 3, 3, 3), dict(group=2, pads=[0, 1, 1, 1])),
], ids=str)
@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("side", conv_ways.TILES)
def test_conv_winograd(device, monkeypatch, x, w, attributes, side, staged):
    if not tiles_for(device.facts).panels:
        node, _ = build("Conv", [floats(*x), weights(*w)], attributes, method="winograd")
        assert "winograd" not in implementation(device, node), "it needs the local memory of a CPU"
        return
    monkeypatch.setattr(conv_ways, "TILES", (side,))
    if staged:
        monkeypatch.setattr(Winograd, "of", _staged(Winograd.of))
    node, arrays = build("Conv", [floats(*x), weights(*w), weights(w[0])], attributes, method="winograd")
    check(device, node, arrays, CLOSE_WINOGRAD, tail=not staged)
    assert implementation(device, node).startswith(f"f32_conv_winograd_{side}x{side}") and implementation(device, node).endswith("_staged") == staged


@pytest.mark.parametrize("x, w, attributes", [
    ((1, 16, 14, 14), (24, 16, 7, 7), dict(pads=[3, 3, 3, 3])),
    ((2, 6, 19, 70), (5, 6, 5, 5), dict(pads=[2, 3, 1, 0])),
    ((1, 8, 6, 5), (20, 8, 6, 6), dict(pads=[3, 2, 2, 3])),
    ((1, 6, 28, 31), (20, 3, 8, 8), dict(group=2, pads=[0, 1, 1, 1])),
], ids=str)
@pytest.mark.parametrize("staged", [False, True])
def test_conv_winograd_of_blocks(device, monkeypatch, x, w, attributes, staged):
    if not tiles_for(device.facts).panels:
        node, _ = build("Conv", [floats(*x), weights(*w)], attributes, method="winograd")
        assert "winograd" not in implementation(device, node), "it needs the local memory of a CPU"
        return
    if staged:
        monkeypatch.setattr(Winograd, "of", _staged(Winograd.of))
    node, arrays = build("Conv", [floats(*x), weights(*w), weights(w[0])], attributes, method="winograd")
    check(device, node, arrays, CLOSE_WINOGRAD, tail=not staged)
    assert implementation(device, node).startswith("f32_conv_winograd_blocks") and implementation(device, node).endswith("_staged") == staged


@pytest.mark.parametrize("x, w, attributes", [
    ((1, 5, 21, 150), (3, 5, 9, 9), dict(pads=[4, 4, 4, 4])),
    ((2, 6, 9, 70), (4, 6, 3, 2), dict(pads=[2, 3, 1, 0])),
    ((1, 7, 20, 40), (1, 7, 3, 5), dict(dilations=[2, 3], strides=[2, 1], pads=[1, 0, 0, 2])),
    ((1, 3, 12, 16), (2, 3, 1, 3), dict(pads=[0, 1, 0, 1])),
], ids=str)
def test_conv_of_few_channels(device, x, w, attributes):
    node, arrays = build("Conv", [floats(*x), weights(*w), weights(w[0])], attributes)
    check(device, node, arrays, CLOSE_WINOGRAD)
    assert implementation(device, node).startswith("f32_conv_few") == tiles_for(device.facts).panels


def _staged(of):
    return lambda *asked: replace(of(*asked), staged=True)


def implementation(device: Any, node: Node) -> str:
    """The name of what runs the whole node."""
    return compiled(device, node).implementation


def compiled(device: Any, node: Node) -> Any:
    """What runs the whole node; its queue is closed, so it can be looked at only."""
    from coexec.devices.base import TensorView
    queue = device.queue()
    views = [v if v is None or v.data is not None else TensorView.contiguous(device.allocate(v.type.nbytes), v.dtype, Region.whole(v.shape))
             for v in (*node.inputs, *node.outputs)]
    try:
        return queue.compile(node, Region.whole(node.output.shape), views[:len(node.inputs)], views[len(node.inputs):])
    finally:
        queue.close()


@pytest.mark.parametrize("op_type, inputs, attributes", [
    ("Conv", lambda n: [floats(1, 3, n, n), weights(4, 3, 3, 3)], {}), ("ConvTranspose", lambda n: [floats(1, 3, n, n), weights(3, 4, 2, 2)], {}),
    ("MaxPool", lambda n: [floats(1, 3, n, n)], dict(kernel_shape=[2, 2])), ("LpPool", lambda n: [floats(1, 3, n, n)], dict(kernel_shape=[2, 2])),
    ("MatMul", lambda n: [floats(5, 3), floats(3, n * n)], {}), ("LRN", lambda n: [floats(1, 3, n, n)], dict(size=3)),
], ids=lambda v: v if isinstance(v, str) else "")
def test_no_local_size_is_left_to_the_driver(device, op_type, inputs, attributes):
    """It would compile the kernel anew for every shape that it finds another local size for."""
    kernels = [compiled(device, build(op_type, inputs(n), attributes, method="direct")[0]) for n in (11, 13, 19)]
    found = {launch.local_size for kernel in kernels for launch in kernel.launches}
    assert len(found) == 1 and None not in found


def test_methods_are_those_expected(device):
    def of(x, w, **attributes):
        return implementation(device, build("Conv", [floats(*x), weights(*w)], attributes)[0]).split("_conv_")[1].split("_")[0]

    panels = tiles_for(device.facts).panels
    assert of((1, 32, 28, 28), (32, 32, 3, 3), pads=[1] * 4) == ("winograd" if panels else "tiled")
    assert of((1, 4, 28, 28), (8, 4, 3, 3), pads=[1] * 4) == ("panel" if panels else "tiled")
    assert of((1, 8, 9, 9), (8, 1, 3, 3), group=8) == "depthwise"
    assert of((1, 2, 5, 5, 5), (3, 2, 3, 3, 3)) == "direct"
    node, _ = build("Conv", [floats(1, 4, 6, 6), floats(5, 4, 3, 3)])
    assert implementation(device, node) == "f32_conv_direct", "weights that are computed cannot be packed"


def test_conv_with_computed_weights(device):
    check(device, *build("Conv", [floats(1, 4, 6, 6), floats(5, 4, 3, 3), floats(5)]))


@pytest.mark.parametrize("kind", ["Relu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Silu", "Gelu"])
def test_every_activation_behind_a_conv(device, kind):
    node, arrays = build("Conv", [floats(1, 4, 6, 9), weights(5, 4, 3, 3), weights(5)], dict(pads=[1] * 4))
    bounds = {"Clip": (-0.5, 0.75), "HardSigmoid": (0.3, 0.4)}.get(kind, (0.0, 0.0))
    node = replace(node, activation=Activation(kind, *bounds))
    found = run_on_device(device, node, arrays)[0]
    expected = compute_whole(node, arrays)[0]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


LATE = {
    "panel": ("Conv", [(1, 20, 9, 11), (18, 20, 1, 1)], {"kernel_shape": [1, 1]}),
    "winograd": ("Conv", [(1, 16, 11, 13), (18, 16, 3, 3)], {"kernel_shape": [3, 3], "pads": [1] * 4}),
    "depthwise": ("Conv", [(1, 6, 11, 21), (6, 1, 3, 3)], {"kernel_shape": [3, 3], "pads": [1] * 4, "group": 6}),
    "gemm": ("Gemm", [(7, 33), (33, 37)], {}),
}


@pytest.mark.parametrize("method", LATE)
def test_cheap_activations_and_residuals_share_a_program(device, method):
    op_type, (x, w), attributes = LATE[method]
    node, arrays = build(op_type, [floats(*x), weights(*w)], attributes, method="" if method in ("gemm", "depthwise") else method)
    many = []
    for activation in (None, Activation("Relu"), Activation("Clip", -0.5, 0.75), Activation("HardSwish"), Activation("HardSigmoid", 0.2, 0.4)):
        for one, given in ((replace(node, activation=activation), arrays), fused(node, arrays, activation)):
            assert_on_device(device, one, given, CLOSE_WINOGRAD, limit=1)
            program.forget()
            run_on_device(device, one, given)
            if method != "depthwise" or not one.residual:  # seldom there: compiled in
                many.append(set(program._programs))
    if tiles_for(device.facts).panels:
        assert all(programs == many[0] for programs in many)


@pytest.mark.parametrize("x, w, attributes", [
    ((2, 6, 5, 7), (6, 4, 3, 3), dict(strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])),
    ((1, 6, 5, 7), (6, 4, 4, 4), dict(strides=[2, 2], pads=[1, 1, 1, 1])),
    ((2, 6, 5, 7), (6, 2, 3, 2), dict(strides=[3, 1], group=2, dilations=[1, 2])),
    ((1, 6, 9, 8), (6, 5, 3, 3), dict(pads=[1, 1, 1, 1])),
    ((1, 6, 5, 6), (6, 5, 2, 2), dict(strides=[3, 3])),
    ((1, 6, 9), (6, 2, 4), dict(strides=[2], auto_pad="SAME_UPPER")),
    ((1, 2, 3, 4, 5), (2, 3, 2, 3, 2), dict(strides=[2, 1, 2])),
], ids=str)
@pytest.mark.parametrize("method", ["", "direct"])
def test_conv_transpose(device, x, w, attributes, method):
    outputs = w[1] * attributes.get("group", 1)
    check(device, *build("ConvTranspose", [floats(*x), weights(*w), weights(outputs)], attributes, method=method))


GEMMS = {
    "bias row": ((7, 19), (19, 37), (37,), {}),
    "transposed, scaled, bias column": ((19, 7), (37, 19), (7, 1), dict(transA=1, transB=1, alpha=0.5, beta=2.0)),
    "one row": ((1, 64), (100, 64), (100,), dict(transB=1)),
    "two rows": ((2, 33), (33, 70), None, {}),
    "scalar C": ((13, 5), (5, 8), (), {}),
    "whole C": ((13, 5), (5, 33), (13, 33), dict(beta=-1.0)),
    "many rows": ((40, 24), (24, 70), None, {}),
}


@pytest.mark.parametrize("method", ["", "tiled", "direct"])
@pytest.mark.parametrize("case", GEMMS)
def test_gemm(device, case, method):
    a, b, c, attributes = GEMMS[case]
    for second in (weights(*b), floats(*b)):
        node, arrays = build("Gemm", [floats(*a), second, *([] if c is None else [floats(*c)])], attributes, method=method)
        check(device, node, arrays, tail=not method and isinstance(second, Const))


MATMULS = [((3, 7, 19), (19, 37)), ((2, 3, 7, 9), (2, 3, 9, 5)), ((2, 1, 7, 9), (3, 9, 5)), ((9,), (9, 5)), ((4, 9), (9,)), ((3, 9), (2,
    9, 33)),
           ((9,), (2, 9, 5)), ((2, 4, 9), (9,)), ((1, 4, 20, 16), (1, 4, 16, 20))]


@pytest.mark.parametrize("method", ["", "tiled", "direct"])
@pytest.mark.parametrize("a, b", MATMULS, ids=str)
def test_matmul(device, a, b, method):
    check(device, *build("MatMul", [floats(*a), floats(*b)], method=method), tail=not method)


def test_matmul_of_vectors_integers_and_constants(device):
    check(device, *build("MatMul", [floats(9), floats(9)]), tail=False)
    check(device, *build("MatMul", [RNG.integers(-9, 9, (3, 7, 5)).astype(np.int32), RNG.integers(-9, 9, (5, 6)).astype(np.int32)]))
    check(device, *build("MatMul", [floats(3, 7, 19), weights(19, 37)]))


@pytest.mark.parametrize("a, b, bias", [((3, 7, 19), (19, 37), (37,)), ((3, 7, 19), (19, 37), (3, 7, 37)), ((7, 19), (19, 37), (1, 37)),
                                        ((19,), (19, 5), (5,))],
                         ids=str)
def test_matmul_with_fused_bias(device, a, b, bias):
    node, arrays = build("MatMul", [floats(*a), weights(*b)])
    added = floats(*bias)
    node = replace(node, inputs=(*node.inputs, Value("bias", TensorType(added.dtype, added.shape))))
    check(device, node, [*arrays, added])


POOLS = [
    ("MaxPool", (2, 3, 9, 11), dict(kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1]), 1),
    ("MaxPool", (1, 3, 30, 40), dict(kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), 1),
    ("MaxPool", (2, 3, 9, 11), dict(kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1], storage_order=1), 2),
    ("MaxPool", (2, 3, 19), dict(kernel_shape=[3], dilations=[2], ceil_mode=1, strides=[2]), 2),
    ("MaxPool", (1, 2, 5, 6, 7), dict(kernel_shape=[2, 3, 2]), 2),
    *[("AveragePool", (1, 3, 9, 11), dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], ceil_mode=ceil,
                                          count_include_pad=padded), 1)
      for ceil in (0, 1) for padded in (0, 1)],
    ("AveragePool", (1, 3, 19), dict(kernel_shape=[3], dilations=[2], pads=[2, 1], strides=[3]), 1),
    ("AveragePool", (1, 2, 5, 6, 7), dict(kernel_shape=[2, 3, 2]), 1),
    ("LpPool", (1, 3, 9, 11), dict(kernel_shape=[3, 2], p=3, pads=[1, 0, 1, 0]), 1),
    ("LpPool", (1, 3, 9, 11), dict(kernel_shape=[3, 2]), 1),
    *[(name, shape, {}, 1) for name in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool") for shape in ((2, 3, 7, 9), (2, 3, 70), (1,
        2, 3, 4, 5))],
    ("GlobalLpPool", (2, 3, 7, 9), dict(p=1), 1),
    ("GlobalLpPool", (2, 3, 7, 9), dict(p=3), 1),
]


@pytest.mark.parametrize("method", ["", "direct"])
@pytest.mark.parametrize("op_type, shape, attributes, outputs", POOLS, ids=str)
def test_pool(device, op_type, shape, attributes, outputs, method):
    if method and (outputs > 1 or "Global" in op_type or op_type == "LpPool"):
        method = ""
    check(device, *build(op_type, [floats(*shape)], attributes, outputs, method))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_max_pool_of_integers(device, dtype):
    x = RNG.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (1, 2, 6, 7)).astype(dtype)
    node, arrays = make_node("MaxPool", [x], dict(kernel_shape=[3, 2], pads=[1, 0, 1, 1]), judge=ort_reference)
    check(device, node, arrays)


def test_pools_keep_not_a_number(device):
    x = floats(1, 1, 6, 20)
    x[0, 0, 2, 3] = np.nan
    for op_type in ("MaxPool", "AveragePool"):
        node, arrays = build(op_type, [x], dict(kernel_shape=[2, 2]))
        found, expected = run_on_device(device, node, arrays)[0], compute_whole(node, arrays)[0]
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


def positive(*shape: int) -> np.ndarray:
    return np.abs(floats(*shape)) + np.float32(0.1)


NORMALIZATIONS = [
    ("BatchNormalization", lambda: [floats(2, 6, 5, 7), *(Const(positive(6)) for _ in range(4))], {}, 1),
    ("BatchNormalization", lambda: [floats(2, 6, 5, 7), *(positive(6) for _ in range(4))], dict(epsilon=0.01), 1),
    ("BatchNormalization", lambda: [floats(4, 6), *(Const(positive(6)) for _ in range(4))], {}, 1),
    ("InstanceNormalization", lambda: [floats(2, 6, 5, 37), floats(6), floats(6)], {}, 1),
    ("GroupNormalization", lambda: [floats(2, 6, 5, 7), floats(6), floats(6)], dict(num_groups=3), 1),
    ("GroupNormalization", lambda: [floats(2, 6, 35), floats(6), floats(6)], dict(num_groups=2), 1),
    ("LayerNormalization", lambda: [floats(3, 5, 40), weights(40), weights(40)], {}, 1),
    ("LayerNormalization", lambda: [floats(3, 5, 40), weights(5, 40), weights(5, 40)], dict(axis=1), 3),
    ("LayerNormalization", lambda: [floats(3, 5, 7), floats(7)], {}, [True, False, True]),
    ("LayerNormalization", lambda: [floats(4, 100), floats(100)], dict(epsilon=0.1), 1),
    ("RMSNormalization", lambda: [floats(3, 5, 40), floats(40)], {}, 1),
    ("LpNormalization", lambda: [floats(3, 5, 40)], dict(p=1, axis=1), 1),
    ("LpNormalization", lambda: [floats(3, 5, 40) * (np.arange(5) != 2)[:, None].astype(np.float32)], dict(p=2, axis=-1), 1),
    ("MeanVarianceNormalization", lambda: [floats(2, 3, 5, 20)], {}, 1),
    ("MeanVarianceNormalization", lambda: [floats(2, 3, 5, 20)], dict(axes=[1, 3]), 1),
    ("LRN", lambda: [floats(2, 7, 5, 6)], dict(size=4), 1),
    ("LRN", lambda: [floats(2, 7, 5, 6)], dict(size=3, alpha=0.5, beta=0.6, bias=2.0), 1),
]


@pytest.mark.parametrize("op_type, inputs, attributes, outputs", NORMALIZATIONS, ids=lambda v: str(v) if isinstance(v, (str, dict)) else "")
def test_normalization(device, op_type, inputs, attributes, outputs):
    check(device, *build(op_type, inputs(), attributes, outputs))


def test_float64_takes_the_general_kernels(device):
    if "float64" not in device.facts.dtypes:
        node, _ = build("Conv", [floats(1, 2, 5, 5).astype(np.float64), Const(floats(3, 2, 3, 3).astype(np.float64))])
        assert "float64" in device.declines(node)
        return
    double = [(a, i) for a, i in (
        ("Conv", [floats(1, 2, 5, 5), weights(3, 2, 3, 3)]), ("Gemm", [floats(9, 12), weights(12, 11)]), ("LayerNormalization", [floats(3,
            40), floats(40)]),
        ("GlobalAveragePool", [floats(1, 3, 5, 5)]), ("LRN", [floats(1, 5, 4, 4)]))]
    for op_type, inputs in double:
        wide = [Const(i.data.astype(np.float64)) if isinstance(i, Const) else i.astype(np.float64) for i in inputs]
        check(device, *build(op_type, wide, dict(size=3) if op_type == "LRN" else {}), ulps=1e6)  # 2e-10 of the largest


def test_what_has_more_than_three_spatial_axes_is_declined(device):
    node = Node("Conv", (Value("x", TensorType(np.dtype(np.float32), (1, 1, 2, 2, 2, 2))), Value("w", TensorType(np.dtype(np.float32), (1,
        1, 1, 1, 1, 1)))),
                (Value("y"),), {}, name="conv")
    node = with_output_types(node, [np.zeros((1, 1, 2, 2, 2, 2), np.float32)])
    assert device.declines(node) == "more than three spatial axes"


@pytest.mark.parametrize("width, registers", [(16, 32), (8, 16), (4, 32)])
def test_tiles_waste_little(width, registers):
    tiles = Tiles(width=width, registers=registers)
    for rows in (1, 3, 16, 24, 64, 96, 130, 1000):
        for columns in (1, 16, 49, 169, 196, 3136):
            tall, wide = tiles.tile_for(rows, columns)
            assert tall * wide + wide + 1 <= registers
            used = -(-rows // tall) * tall * -(-columns // width) * width
            assert used <= max(rows, 12) * 1.5 * max(-(-columns // width), 1) * width, (rows, columns, tall, wide)
    assert tiles.tile_for(64, 16 * width, most_vectors=1)[1] == 1
    assert replace(tiles, rows=5, vectors=2).tile_for(64, 3136) == (5, 2)

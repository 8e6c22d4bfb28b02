"""The CPU device: every fast path and its near misses equal the operator's own meaning, whole and in pieces, on any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from coexec import settings
from coexec.devices.base import HostBuffer, TensorView
from coexec.devices.cpu import CpuDevice, blas, device
from coexec.devices.cpu.simd import LANES
from coexec.devices.cpu.threads import ThreadTeam
from coexec.errors import UsageError
from coexec.graph.ir import Activation, Node, TensorType, Value, constant
from coexec.ops import op_for
from coexec.ops.base import pieces_along
from coexec.regions import Region
from tests.ops.law import Const, make_node

CPU = CpuDevice()
POISON = np.float32(777)
RELU, CLIP6 = Activation("Relu"), Activation("Clip", 0.0, 6.0)


def some(*shape: int) -> np.ndarray:
    """Reproducible numbers around 0 of that shape."""
    return np.random.default_rng(abs(hash(shape)) % 2**32).standard_normal(shape).astype(np.float32)


def weight(*shape: int) -> Const:
    return Const(some(*shape))


@dataclass(frozen=True)
class Case:
    """One node, what its kernel is to be called, and how close it must come (relative to the largest value)."""

    label: str
    op_type: str
    inputs: tuple
    expects: str
    attributes: dict = field(default_factory=dict)
    activation: Activation | None = None
    residual: bool = False
    tolerance: float = 1e-5
    options: dict = field(default_factory=dict)

    def build(self) -> tuple[Node, list[np.ndarray | None]]:
        with np.errstate(all="ignore"):
            node, arrays = make_node(self.op_type, list(self.inputs), self.attributes)
        if self.residual:
            extra = some(*node.output.shape) + 0.25
            node = replace(node, inputs=(*node.inputs, Value("residual", TensorType(extra.dtype, extra.shape))), residual=True)
            arrays = [*arrays, extra]
        return replace(node, activation=self.activation), arrays


def conv(label, x, w, expects, bias=True, activation=None, residual=False, tolerance=1e-5, options=None, **attributes) -> Case:
    inputs = (some(*x), weight(*w), weight(w[0])) if bias else (some(*x), weight(*w))
    return Case(label, "Conv", inputs, expects, attributes, activation, residual, tolerance, options or {})


def transpose(label, x, w, bias=True, activation=None, **attributes) -> Case:
    inputs = (some(*x), weight(*w), weight(w[1])) if bias else (some(*x), weight(*w))
    return Case(label, "ConvTranspose", inputs, "f32_convtranspose_phases", attributes, activation)


def pad(label, x, pads, mode="constant", value=None, expects="float32_pad_rows") -> Case:
    extra = () if value is None else (Const(np.asarray(value, x.dtype)),)
    return Case(label, "Pad", (x, Const(np.array(pads)), *extra), expects, {"mode": mode})


DIRECT = {"winograd": False}
#: Bytes beyond a kernel's scratch memory that are looked at.
GUARD = 1 << 16
#: Where a vector is wide enough that a row of 5 to 8 pixels fills at most half of it.
LANED = "_lanes" if LANES == 16 else ""
CASES = [
    conv("pointwise", (1, 19, 9, 13), (21, 19, 1, 1), "f32_conv_pointwise", activation=RELU),
    conv("pointwise, whole tiles, residual", (1, 32, 12, 16), (16, 32, 1, 1), "f32_conv_pointwise", residual=True, activation=RELU),
    conv("pointwise, deep", (1, 405, 17, 19), (9, 405, 1, 1), "f32_conv_pointwise", residual=True, activation=CLIP6),
    conv("pointwise, batch and strides", (3, 6, 37, 50), (4, 6, 1, 1), "f32_conv_pointwise", strides=(2, 3)),
    conv("pointwise with padding", (1, 5, 6, 7), (3, 5, 1, 1), "f32_conv_pointwise", pads=(1, 0, 2, 1)),
    conv("pointwise, one row of C", (1, 20, 8, 8), (1, 20, 1, 1), "f32_conv_pointwise", bias=False),
    conv("columns 3x3 stride 2", (2, 7, 15, 21), (10, 7, 3, 3), "f32_conv_columns", strides=(2, 2), pads=(1, 1, 1, 1), activation=CLIP6),
    conv("columns 7x7 stride 2", (1, 5, 30, 33), (12, 5, 7, 7), "f32_conv_columns", strides=(2, 2), pads=(3, 3, 3, 3), activation=RELU),
    conv("columns stride 3, dilation 2", (1, 4, 17, 19), (5, 4, 3, 2), "f32_conv_columns", strides=(3, 3), dilations=(2, 2), pads=(2, 1, 0,
                                                                                                                                   3)),
    conv("columns, blocks of k", (1, 30, 9, 9), (17, 30, 3, 3), "f32_conv_columns", options=DIRECT, pads=(1, 1, 1, 1), residual=True,
         activation=Activation("Silu")),
    conv("columns, groups", (1, 12, 10, 11), (9, 4, 3, 3), "f32_conv_columns", group=3, pads=(1, 1, 1, 1)),
    conv("columns, SAME_UPPER", (1, 4, 11, 12), (6, 4, 3, 3), "f32_conv_columns", auto_pad="SAME_UPPER", strides=(2, 2)),
    conv("columns, one axis", (2, 5, 23), (7, 5, 4), "f32_conv_columns", pads=(1, 2), strides=(2,), activation=RELU),
    conv("columns, wide kernel", (1, 6, 4, 40), (7, 6, 1, 9), "f32_conv_columns", pads=(0, 4, 0, 4)),
    conv("winograd 4", (1, 20, 29, 31), (23, 20, 3, 3), "f32_conv_winograd4", pads=(1, 1, 1, 1), tolerance=1e-3, activation=RELU,
         options={"winograd_tile": 4}),
    conv("winograd 4, residual, no padding, batch", (2, 16, 21, 70), (16, 16, 3, 3), "f32_conv_winograd4", tolerance=1e-3, residual=True,
         options={"winograd_tile": 4}),
    conv("winograd 4, several blocks", (1, 17, 50, 51), (40, 17, 3, 3), "f32_conv_winograd4", pads=(2, 0, 1, 2), tolerance=1e-3,
         activation=Activation("Silu"), options={"winograd_tile": 4}),
    conv("winograd 4, blocks that end within rows", (1, 180, 5, 900), (180, 180, 3, 3), "f32_conv_winograd4", pads=(1, 1, 1, 1), tolerance=1e-3,
         options={"winograd_tile": 4}),
    conv("winograd 4, deep", (1, 300, 8, 8), (24, 300, 3, 3), "f32_conv_winograd4", pads=(1, 1, 1, 1), tolerance=1e-3,
         options={"winograd_tile": 4}),
    conv("winograd 6", (1, 20, 29, 31), (23, 20, 3, 3), "f32_conv_winograd6", pads=(1, 1, 1, 1), tolerance=1e-4, activation=RELU,
         options={"winograd_tile": 6}),
    conv("winograd 6, residual, no padding, batch", (2, 16, 21, 130), (16, 16, 3, 3), "f32_conv_winograd6", tolerance=1e-4, residual=True,
         options={"winograd_tile": 6}),
    conv("winograd 6, several blocks", (1, 17, 110, 111), (40, 17, 3, 3), "f32_conv_winograd6", pads=(2, 0, 1, 2), tolerance=1e-4,
         activation=Activation("Silu"), options={"winograd_tile": 6}),
    conv("winograd 6, deep", (1, 300, 8, 8), (24, 300, 3, 3), "f32_conv_winograd6", pads=(1, 1, 1, 1), tolerance=1e-4,
         options={"winograd_tile": 6}),
    conv("winograd 2", (1, 18, 13, 15), (19, 18, 3, 3), "f32_conv_winograd2", pads=(1, 1, 1, 1), tolerance=1e-3, activation=RELU,
         options={"winograd_tile": 2}, residual=True),
    conv("winograd blocks 7x7", (1, 20, 27, 30), (23, 20, 7, 7), "f32_conv_winograd_blocks", tolerance=1e-4, pads=(3, 3, 3, 3), activation=RELU),
    conv("winograd blocks 5x5, residual, no padding, batch", (2, 64, 21, 38), (72, 64, 5, 5), "f32_conv_winograd_blocks", tolerance=1e-4,
         residual=True),
    conv("winograd blocks 8x8, bands", (1, 17, 70, 71), (130, 17, 8, 8), "f32_conv_winograd_blocks", tolerance=1e-4, pads=(2, 0, 5, 7),
         activation=Activation("Silu")),
    conv("winograd blocks 6x6, deep", (1, 70, 29, 31), (24, 70, 6, 6), "f32_conv_winograd_blocks", tolerance=1e-4, pads=(2, 2, 3, 3)),
    conv("columns 7x7", (1, 15, 14, 14), (24, 15, 7, 7), "f32_conv", pads=(3, 3, 3, 3)),
    conv("winograd of few channels is direct", (1, 15, 20, 20), (4, 15, 3, 3), "f32_conv_columns", pads=(1, 1, 1, 1)),
    conv("winograd with dilation is direct", (1, 16, 12, 12), (16, 16, 3, 3), "f32_conv_columns", pads=(2, 2, 2, 2), dilations=(2, 2)),
    conv("depthwise 3x3", (2, 9, 20, 37), (9, 1, 3, 3), "f32_conv_depthwise_3x3s1", group=9, pads=(1, 1, 1, 1), activation=CLIP6),
    conv("depthwise 3x3 stride 2, narrow", (1, 6, 14, 14), (6, 1, 3, 3), "f32_conv_depthwise_3x3s2", group=6, pads=(0, 0, 1, 1),
         strides=(2, 2)),
    conv("depthwise 5x5, multiplier", (1, 4, 11, 18), (8, 1, 5, 5), "f32_conv_depthwise_5x5s1", group=4, pads=(2, 2, 2, 2), residual=True,
         activation=Activation("HardSwish")),
    conv("depthwise dilated", (1, 5, 15, 40), (5, 1, 3, 3), "f32_conv_depthwise_3x3s1", group=5, pads=(2, 2, 2, 2), dilations=(2, 2),
         bias=False),
    conv("depthwise stride 3", (1, 5, 16, 25), (5, 1, 3, 3), "f32_conv_depthwise_3x3s3", group=5, pads=(1, 2, 1, 0), strides=(3, 3)),
    conv("depthwise 1x7", (1, 3, 6, 19), (3, 1, 1, 7), "f32_conv_depthwise_1x7s1", group=3, pads=(0, 3, 0, 3),
         activation=Activation("Gelu")),
    conv("depthwise 3x3 stride 2, wide", (1, 6, 56, 80), (6, 1, 3, 3), "f32_conv_depthwise_3x3s2", group=6, strides=(2, 2),
         pads=(1, 1, 1, 1), activation=CLIP6),
    conv("depthwise 3x3, small map, multiplier", (1, 6, 7, 7), (12, 1, 3, 3), "f32_conv_depthwise_3x3s1", group=6, pads=(1, 1, 1, 1),
         residual=True),
    conv("depthwise 5x5 stride 2", (2, 5, 17, 45), (5, 1, 5, 5), "f32_conv_depthwise_5x5s2", group=5, strides=(2, 2), pads=(2, 1, 2, 2),
         residual=True, activation=RELU),
    conv("depthwise 7x7", (2, 5, 23, 45), (5, 1, 7, 7), "f32_conv_depthwise_7x7s1", group=5, pads=(3, 2, 1, 3), residual=True, activation=RELU),
    conv("depthwise 7x7, wide, low", (1, 3, 2, 130), (6, 1, 7, 7), "f32_conv_depthwise_7x7s1", group=3, pads=(3, 3, 3, 3)),
    conv("depthwise 7x7, no padding", (1, 3, 9, 60), (3, 1, 7, 7), "f32_conv_depthwise_7x7s1", group=3, activation=CLIP6),
    conv("depthwise 7x7 stride 2", (1, 4, 21, 40), (4, 1, 7, 7), "f32_conv_depthwise_7x7s2", group=4, pads=(3, 3, 3, 3), strides=(2, 2)),
    conv("depthwise 9x9", (1, 4, 13, 35), (4, 1, 9, 9), "f32_conv_depthwise_9x9s1", group=4, pads=(4, 4, 4, 4), residual=True),
    conv("depthwise 5x5 stride 2, small map", (1, 6, 7, 7), (6, 1, 5, 5), "f32_conv_depthwise_5x5s2", group=6, strides=(2, 2),
         pads=(2, 2, 2, 2)),
    conv("depthwise of channels side by side", (2, 23, 7, 7), (23, 1, 5, 5), "f32_conv_depthwise_5x5s1" + LANED, group=23, pads=(2, 2, 2, 2),
         activation=Activation("HardSwish")),
    conv("depthwise of channels side by side, residual", (2, 32, 7, 7), (32, 1, 3, 3), "f32_conv_depthwise_3x3s1" + LANED, group=32,
         pads=(1, 1, 1, 1), residual=True, activation=CLIP6),
    conv("depthwise of channels side by side, stride 2", (1, 100, 14, 14), (100, 1, 3, 3), "f32_conv_depthwise_3x3s2" + LANED, group=100,
         strides=(2, 2), pads=(0, 1, 1, 0), activation=RELU),
    conv("depthwise of channels side by side, 7x7", (1, 18, 8, 8), (18, 1, 7, 7), "f32_conv_depthwise_7x7s1" + LANED, group=18, pads=(3, 3, 3, 3),
         bias=False),
    conv("depthwise of channels side by side, wide padding", (1, 16, 5, 5), (16, 1, 3, 2), "f32_conv_depthwise_3x2s1" + LANED, group=16,
         pads=(2, 1, 2, 1)),
    conv("depthwise of channels side by side, columns left over", (1, 17, 9, 20), (17, 1, 3, 3), "f32_conv_depthwise_3x3s3", group=17,
         strides=(3, 3)),
    conv("small map", (1, 70, 7, 7), (100, 70, 1, 1), "f32_conv_small", activation=RELU),
    conv("small map, blocks of k, residual, batch", (2, 405, 7, 7), (64, 405, 1, 1), "f32_conv_small", residual=True,
         activation=Activation("HardSwish")),
    conv("small map of a stride", (1, 20, 14, 14), (64, 20, 3, 3), "f32_conv_small", strides=(2, 2), pads=(1, 1, 1, 1), residual=True,
         activation=CLIP6),
    conv("small map, groups of strips", (1, 64, 9, 14), (1100, 64, 1, 1), "f32_conv_small"),
    conv("one pixel", (1, 33, 1, 1), (64, 33, 1, 1), "f32_conv_small", activation=Activation("HardSigmoid")),
    conv("shallow, stride 2", (2, 3, 31, 45), (21, 3, 3, 3), "f32_conv_shallow", strides=(2, 2), pads=(1, 1, 1, 1), activation=CLIP6),
    conv("shallow, 7x7 stride 2", (1, 3, 30, 63), (12, 3, 7, 7), "f32_conv_shallow", strides=(2, 2), pads=(3, 3, 3, 3), residual=True),
    conv("shallow, stride 3, dilated", (1, 4, 27, 59), (9, 4, 3, 2), "f32_conv_shallow", strides=(3, 3), dilations=(2, 2),
         pads=(2, 1, 0, 3)),
    conv("shallow, bands", (1, 2, 140, 401), (17, 2, 3, 5), "f32_conv_shallow", pads=(1, 0, 1, 2), activation=Activation("HardSwish")),
    conv("few channels", (1, 5, 9, 130), (3, 5, 3, 5), "f32_conv_few", pads=(1, 2, 1, 2), activation=RELU),
    conv("few channels, residual, batch", (2, 4, 12, 111), (2, 4, 3, 3), "f32_conv_few", residual=True),
    conv("few channels, dilated, padded on two sides", (1, 4, 12, 111), (4, 4, 3, 3), "f32_conv_few", dilations=(2, 1), pads=(0, 3, 1, 0),
         activation=Activation("Tanh")),
    conv("one channel, one row", (1, 4, 12, 111), (1, 4, 1, 3), "f32_conv_few", bias=False),
    transpose("transpose", (1, 20, 9, 11), (20, 13, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1), output_padding=(1, 1), activation=RELU),
    transpose("transpose, wide, batch", (2, 12, 8, 40), (12, 10, 4, 4), strides=(2, 2), pads=(1, 1, 1, 1), activation=Activation("Silu")),
    transpose("transpose, outputs that nothing reaches", (1, 5, 6, 7), (5, 4, 2, 2), strides=(3, 3), activation=CLIP6),
    transpose("transpose of stride 1, dilated", (1, 5, 6, 7), (5, 4, 3, 2), dilations=(2, 3), pads=(1, 0, 2, 1)),
    transpose("transpose, dilated", (1, 5, 6, 9), (5, 4, 3, 3), strides=(2, 2), dilations=(2, 3), pads=(2, 1, 0, 1), bias=False),
    transpose("transpose, one axis", (2, 6, 13), (6, 9, 5), strides=(2,), pads=(2, 1)),
    transpose("transpose, blocks of k", (1, 100, 5, 6), (100, 70, 3, 3), strides=(2, 2), pads=(0, 1, 1, 0)),
    Case("transpose of variable weights", "ConvTranspose", (some(1, 6, 5, 5), some(6, 2, 3, 3)), "float32_convtranspose_numpy"),
    pad("pad, reflect", some(2, 3, 9, 40), (0, 0, 1, 4, 0, 0, 2, 3), "reflect"),
    pad("pad, constant", some(2, 3, 9, 20), (0, 1, 1, 4, 1, 0, 2, 30), value=2.5),
    pad("pad, edge", some(3, 9, 20), (1, 1, 3, 1, 2, 3), "edge"),
    pad("pad, wrap", some(3, 5), (0, 7, 3, 8), "wrap"),
    pad("pad of integers", np.arange(12, dtype=np.int32).reshape(3, 4), (1, 1, 1, 1), value=7, expects="int32_pad_rows"),
    pad("pad of doubles", some(3, 5).astype(np.float64), (1, 1, 1, 1), expects="float64_pad_numpy"),
    Case("conv of variable weights", "Conv", (some(1, 3, 6, 6), some(4, 3, 3, 3)), "float32_conv_numpy"),
    Case("conv of three axes", "Conv", (some(1, 3, 5, 6, 7), weight(4, 3, 2, 2, 2)), "float32_conv_numpy"),
    Case("conv of float64", "Conv", (some(1, 3, 6, 6).astype(np.float64), Const(some(4, 3, 3, 3).astype(np.float64))),
         "float64_conv_numpy"),
    Case("matmul, constant", "MatMul", (some(2, 13, 50), weight(50, 70)), "f32_matmul_strips", activation=Activation("Gelu")),
    Case("matmul, constant, deep", "MatMul", (some(17, 450), weight(450, 96)), "f32_matmul_strips", residual=True),
    Case("matmul, variable stacks", "MatMul", (some(2, 3, 20, 33), some(3, 33, 49)), "f32_matmul_packed"),
    Case("matmul, one row", "MatMul", (some(1, 200), weight(200, 100)), "f32_matmul_strips"),
    Case("matmul, constant first", "MatMul", (weight(24, 31), some(2, 31, 40)), "f32_matmul_packed"),
    Case("matmul of a vector", "MatMul", (some(20), some(20, 30)), "float32_matmul_numpy"),
    Case("gemm", "Gemm", (some(9, 40), weight(50, 40), weight(50)), "f32_gemm_strips", {"transB": 1, "alpha": 0.5, "beta": 2.0}, RELU),
    Case("gemm, transposed", "Gemm", (some(40, 9), weight(40, 50), weight(9, 1)), "f32_gemm_strips", {"transA": 1}),
    Case("gemm, bias and residual", "Gemm", (some(10, 300), weight(300, 60), weight(60)), "f32_gemm_strips", {}, RELU, True),
    Case("gemm, variable", "Gemm", (some(10, 30), some(50, 30), some(10, 50)), "f32_gemm_packed", {"transB": 1}),
    Case("gemm, variable with alpha", "Gemm", (some(10, 30), some(30, 50)), "float32_gemm_numpy", {"alpha": 2.0}),
    Case("max pool", "MaxPool", (some(2, 3, 13, 41),), "f32_maxpool_3x3s2", {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1,
                                                                                                                                 1)}),
    Case("max pool of stride 1, wide padding", "MaxPool", (some(1, 3, 17, 60) - 3,), "f32_maxpool_3x3s1",
         {"kernel_shape": (3, 3), "pads": (2, 2, 2, 2)}),
    Case("max pool 3x3, wide, ceil", "MaxPool", (some(1, 3, 56, 81) - 3,), "f32_maxpool_3x3s2", {"kernel_shape": (3, 3), "strides": (2, 2),
                                                                                              "ceil_mode": 1}),
    Case("max pool 2x2", "MaxPool", (some(2, 3, 15, 75) - 3,), "f32_maxpool_2x2s2", {"kernel_shape": (2, 2), "strides": (2, 2),
                                                                                   "ceil_mode": 1}),
    Case("max pool, ceil", "MaxPool", (some(1, 3, 14, 15),), "f32_maxpool_3x2s2", {"kernel_shape": (3, 2), "strides": (2, 2),
                                                                                   "ceil_mode": 1}),
    Case("average pool", "AveragePool", (some(1, 3, 12, 40),), "f32_averagepool_3x3s1", {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
    Case("average pool, padding counts", "AveragePool", (some(1, 3, 12, 13),), "f32_averagepool_2x2s3",
         {"kernel_shape": (2, 2), "pads": (1, 0, 0, 1), "strides": (3, 3), "count_include_pad": 1}),
    Case("average pool, one axis", "AveragePool", (some(2, 3, 20),), "f32_averagepool_1x4s2", {"kernel_shape": (4,), "strides": (2,)}),
    Case("global average pool", "GlobalAveragePool", (some(2, 5, 7, 9),), "f32_globalaveragepool"),
    Case("mean of planes", "ReduceMean", (some(2, 5, 7, 9), Const(np.array([2, 3]))), "f32_reducemean", {"keepdims": 0}),
    Case("mean of channels", "ReduceMean", (some(2, 5, 7, 9), Const(np.array([1]))), "float32_reducemean_numpy"),
    Case("add", "Add", (some(2, 5, 7, 9), some(2, 5, 7, 9)), "f32_add", {}, RELU),
    Case("mul per channel", "Mul", (some(2, 5, 7, 9), some(5, 1, 1)), "f32_mul", residual=True),
    Case("div by scalar", "Div", (some(2, 5, 7, 9), Const(np.float32(3))), "f32_div"),
    Case("sub, both repeated", "Sub", (some(4, 1, 33), some(5, 1)), "f32_sub", {}, Activation("Sigmoid")),
    Case("prelu", "PRelu", (some(1, 5, 7, 9), weight(5, 1, 1)), "f32_prelu"),
    Case("max of three", "Max", (some(4, 5), some(4, 5), some(5)), "float32_max_numpy"),
    Case("square", "Pow", (some(3, 50), Const(np.float32(2))), "f32_pow"),
    Case("cube", "Pow", (some(3, 50), Const(np.float32(3))), "float32_pow_numpy"),
    Case("clip", "Clip", (some(3, 50), Const(np.float32(-0.5)), Const(np.float32(0.5))), "f32_clip"),
    Case("clip, variable", "Clip", (some(3, 50), np.float32(-0.5).reshape(())), "float32_clip_numpy"),
    Case("add of integers", "Add", (np.arange(12).reshape(3, 4), np.arange(4)), "int64_add_numpy"),
    *(Case(f"{op} of one input", op, (some(3, 7, 41) * 3,), f"f32_{op.lower()}") for op in (
        "Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Gelu", "Erf", "Exp", "Neg", "Abs", "Reciprocal")),
    Case("gelu by tanh", "Gelu", (some(3, 41),), "f32_gelu", {"approximate": "tanh"}),
    Case("square root", "Sqrt", (np.abs(some(3, 41)),), "f32_sqrt"),
    Case("softmax", "Softmax", (some(2, 5, 37) * 9,), "f32_softmax_rows", {"axis": -1}),
    Case("softmax of channels", "Softmax", (some(2, 5, 4, 9) * 9,), "f32_softmax_lines", {"axis": 1}),
    Case("layer norm", "LayerNormalization", (some(2, 6, 37), weight(37), weight(37)), "f32_layernormalization"),
    Case("layer norm of two axes", "LayerNormalization", (some(3, 6, 11), weight(6, 11)), "f32_layernormalization", {"axis": 1}),
    Case("instance norm", "InstanceNormalization", (some(2, 6, 5, 7), weight(6), weight(6)), "f32_instancenormalization", {}, RELU),
    Case("group norm", "GroupNormalization", (some(2, 6, 5, 7), weight(6), weight(6)), "f32_groupnormalization", {"num_groups": 3}),
    Case("batch norm", "BatchNormalization", (some(2, 6, 5, 7), weight(6), weight(6), weight(6), Const(np.abs(some(6)))),
         "f32_batchnormalization", {}, RELU),
    Case("LRN", "LRN", (some(2, 9, 5, 7) * 30,), "f32_lrn", {"size": 5, "alpha": 0.01, "beta": 0.75, "bias": 2.0}),
    Case("LRN, another power", "LRN", (some(1, 9, 5, 7),), "float32_lrn_numpy", {"size": 3, "beta": 0.6}),
    Case("resize, nearest", "Resize", (some(1, 3, 7, 9), None, Const(np.array([1, 1, 2, 2], np.float32))), "f32_resize_1x1",
         {"mode": "nearest"}),
    Case("resize, linear", "Resize", (some(2, 3, 7, 20), None, None, Const(np.array([2, 3, 10, 33]))), "f32_resize_2x2",
         {"mode": "linear"}),
    Case("resize, cubic", "Resize", (some(1, 2, 6, 5), None, Const(np.array([1, 1, 1.7, 3], np.float32))), "f32_resize_4x4",
         {"mode": "cubic"}),
    Case("resize of channels", "Resize", (some(1, 2, 6, 5), None, Const(np.array([1, 2, 2, 2], np.float32))), "float32_resize_numpy"),
    Case("concat", "Concat", (some(2, 3, 5), some(2, 1, 5), some(2, 4, 5)), "float32_concat", {"axis": 1}),
    Case("transpose of rows", "Transpose", (some(2, 9, 4, 37),), "f32_transpose_rows", {"perm": (0, 2, 1, 3)}),
    Case("transpose of squares", "Transpose", (some(2, 64, 3, 32),), "f32_transpose_squares", {"perm": (0, 2, 3, 1)}),
    Case("transpose of many narrow squares", "Transpose", (some(2, 32, 4, 5),), "f32_transpose_squares", {"perm": (0, 2, 3, 1)}),
    Case("transpose back", "Transpose", (some(2, 4, 5, 32),), "f32_transpose_squares", {"perm": (0, 3, 1, 2)}),
    Case("transpose of few channels", "Transpose", (some(2, 3, 9, 20),), "f32_transpose_narrow", {"perm": (0, 2, 3, 1)}),
    Case("transpose to few channels", "Transpose", (some(2, 9, 20, 3),), "f32_transpose_narrow", {"perm": (0, 3, 1, 2)}),
    Case("transpose of all axes", "Transpose", (some(3, 4, 5, 6),), "f32_transpose_narrow", {"perm": (3, 2, 1, 0)}),
    Case("transpose of short rows", "Transpose", (some(3, 4, 5),), "float32_transpose_numpy", {"perm": (1, 0, 2)}),
    Case("reshape copies", "Reshape", (some(3, 4, 5), Const(np.array([12, 5]))), "float32_reshape_numpy"),
]


@pytest.mark.parametrize("tile", ["2", "4", "6"])
def test_a_setting_chooses_the_winograd_tile(tile):
    x, y = (Value(n, TensorType(np.dtype(np.float32), (1, 16, 24, 24))) for n in "xy")
    node = Node("Conv", (x, constant("w", some(16, 16, 3, 3))), (y,), {"pads": [1] * 4})
    views = [TensorView.contiguous(HostBuffer(v.type.nbytes), v.dtype, Region.whole(v.shape)) for v in (x, y)]
    with settings.override(winograd=tile):
        queue = CPU.queue()
    kernel = queue.compile(node, Region.whole(y.shape), [views[0], node.inputs[1]], views[1:])
    assert kernel.implementation.startswith(f"f32_conv_winograd{tile}_")


def windowed(array: np.ndarray, region: Region, loose: bool) -> TensorView:
    """A view of `region` of a value: alone in its buffer, or (loose) inside the whole value."""
    held = Region.whole(array.shape) if loose else region
    view = TensorView.contiguous(HostBuffer(max(1, held.size * array.itemsize)), array.dtype, held)
    if held.size:
        view.array[...] = array[held.slices]
    return view.sub(region)


def run_pieces(case: Case, node: Node, arrays, pieces, threads: int, loose: bool, monkeypatch) -> tuple[np.ndarray, list[str]]:
    """The output after running those pieces one by one, and the names of the kernels. None may write beyond the scratch memory that it asked for."""
    monkeypatch.setattr(device, "SPLIT_FLOPS", 0)
    op, names, guards, aligned = op_for(node), [], [], device._aligned

    def guarded(nbytes: int) -> np.ndarray:
        longer = aligned(nbytes + GUARD)
        guards.append(longer[nbytes:])
        guards[-1][:] = 77
        return longer[:nbytes]

    monkeypatch.setattr(device, "_aligned", guarded)
    queue = CPU.queue(threads=threads, **case.options)
    whole = TensorView.contiguous(HostBuffer(node.output.type.nbytes + 64), node.output.dtype, Region.whole(node.output.shape))
    whole.array[...] = POISON if node.output.dtype.kind == "f" else 77
    kernels = []
    for piece in pieces:
        operands = [None if v is None else v if v.is_constant else windowed(a, r, loose)
                    for v, a, r in zip(node.inputs, arrays, op.regions_read(node, piece))]
        kernels.append(queue.compile(node, piece, operands, [whole.sub(piece) if piece.size else whole]))
        names.append(kernels[-1].implementation)
    queue.seal()
    for kernel in reversed(kernels):
        kernel.start().wait()
        kernel.start().wait()
    found = whole.array.copy()
    queue.close()
    monkeypatch.setattr(device, "_aligned", aligned)
    assert guards and all((guard == 77).all() for guard in guards), f"{names} wrote beyond their scratch memory"
    return found, names


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_pieces_on_threads_equal_the_reference(case, monkeypatch):
    node, arrays = case.build()
    op, whole = op_for(node), Region.whole(node.output.shape)
    expected = op.run(node, [None if a is None else np.asarray(a) for a in arrays], whole)[0]
    limit = case.tolerance * max(float(np.abs(expected).max()), 1e-3)
    plans = [([whole], threads, True) for threads in (1, 2, 3)]
    for axis in op.split_axes(node):
        middle = max(axis.multiple, axis.extent // 3 // axis.multiple * axis.multiple)
        late = min(axis.extent, middle + -(-axis.extent // 2) // axis.multiple * axis.multiple)
        plans.append((pieces_along(node, axis, (0, middle, axis.extent)), 1, False))
        plans.append((pieces_along(node, axis, (0, 0, middle, late, axis.extent)), 2, True))
    for pieces, threads, loose in plans:
        found, names = run_pieces(case, node, arrays, pieces, threads, loose, monkeypatch)
        worst = np.abs(found.astype(np.float64) - expected).max()
        assert worst <= limit, f"{case.label}: {list(map(str, pieces))} on {threads} threads is off by {worst:.3g} ({names})"
        if len(pieces) == threads == 1:
            small = LANES < 16 and names[0].startswith("f32_conv_small")  # narrower vectors leave less over: more maps count as small
            assert small or names[0].startswith(case.expects), f"{case.label} ran as {names[0]}"


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad_that_crops(mode, monkeypatch):
    x, pads = some(4, 7, 30), (-1, 2, -3, 0, -2, 40)
    shape = tuple(n + pads[i] + pads[i + 3] for i, n in enumerate(x.shape))
    node, arrays = make_node("Pad", [x, Const(np.array(pads))], {"mode": mode}, judge=lambda *_: [np.empty(shape, np.float32)])
    whole = Region.whole(shape)
    read = x[op_for(node).regions_read(node, whole)[0].slices]
    for pieces in ([whole], pieces_along(node, op_for(node).split_axes(node)[2], (0, 20, 40, shape[2]))):
        found, names = run_pieces(Case("", "Pad", (), ""), node, arrays, pieces, 1, True, monkeypatch)
        assert set(names) == {"float32_pad_rows"}
        np.testing.assert_array_equal(found, op_for(node).run(node, [read, arrays[1]], whole)[0])


PLACES = [
    ("small", (1, 405, 7, 7), (64, 405, 1, 1), {}), ("pointwise", (1, 405, 9, 31), (20, 405, 1, 1), {}),
    ("columns", (1, 50, 9, 31), (20, 50, 3, 3), {}), ("few", (1, 50, 9, 131), (3, 50, 3, 3), {}),
    ("shallow", (1, 3, 19, 131), (30, 3, 7, 7), {"strides": (2, 2)}),
    ("depthwise", (1, 12, 9, 37), (12, 1, 3, 3), {"group": 12}), ("depthwise", (1, 12, 9, 37), (12, 1, 5, 5), {"group": 12}),
    ("depthwise", (1, 12, 9, 77), (12, 1, 3, 3), {"group": 12, "strides": (2, 2)}),
    ("depthwise", (1, 12, 9, 37), (12, 1, 1, 4), {"group": 12}),
]


@pytest.mark.parametrize("name,x,w,attributes", PLACES)
def test_equal_inputs_give_equal_outputs_wherever_they_lie(name, x, w, attributes, monkeypatch):
    rng = np.random.default_rng(3)
    same = np.broadcast_to(rng.standard_normal((1, x[1], 1, 1)).astype(np.float32), x).copy()
    weights = np.repeat(rng.standard_normal((1, *w[1:])).astype(np.float32), w[0], axis=0)
    if "group" in attributes:
        same[:] = same[:, :1]
    case = Case("", "Conv", (same, Const(weights), Const(np.full(w[0], 0.3, np.float32))), "", attributes, options=DIRECT)
    node, arrays = case.build()
    axis = op_for(node).split_axes(node)[0]
    for pieces, threads in (([Region.whole(node.output.shape)], 1), (pieces_along(node, axis, (0, 1, axis.extent)), 2)):
        found, names = run_pieces(case, node, arrays, pieces, threads, True, monkeypatch)
        assert all(name in n for n in names) or len(pieces) > 1 or LANES < 16
        assert (found == found.flat[0]).all(), names


def test_rows_and_columns_of_a_product_are_the_same_however_it_is_cut(monkeypatch):
    case = Case("", "MatMul", (some(37, 450), weight(450, 150)), "")
    node, arrays = case.build()
    whole = run_pieces(case, node, arrays, [Region.whole(node.output.shape)], 1, True, monkeypatch)[0]
    for axis in op_for(node).split_axes(node):
        for at in (1, 5, 17):
            found = run_pieces(case, node, arrays, pieces_along(node, axis, (0, at, axis.extent)), 3, True, monkeypatch)[0]
            np.testing.assert_array_equal(found, whole)


def test_pieces_write_nothing_else(monkeypatch):
    for case in CASES:
        node, arrays = case.build()
        axes = op_for(node).split_axes(node)
        if not axes or node.output.dtype.kind != "f":
            continue
        first = pieces_along(node, axes[0], (0, axes[0].multiple, axes[0].extent))[0]
        found, _ = run_pieces(case, node, arrays, [first], 2, True, monkeypatch)
        assert not (found[first.slices] == POISON).any(), case.label
        found[first.slices] = POISON
        assert (found == POISON).all(), f"{case.label} wrote outside {first}"


@pytest.mark.parametrize("kind,alpha,beta", [("Relu", 0, 0), ("LeakyRelu", 0.1, 0), ("Clip", -0.3, 0.7), ("Sigmoid", 0, 0), ("Tanh", 0, 0),
                                             ("HardSigmoid", 0.2, 0.5), ("HardSwish", 0, 0), ("Silu", 0, 0), ("Gelu", 0, 0)])
@pytest.mark.parametrize("base", ["pointwise", "winograd 2", "depthwise 3x3", "add"])
def test_every_activation_behind_every_kind_of_kernel(kind, alpha, beta, base, monkeypatch):
    case = replace(next(c for c in CASES if c.label == base), activation=Activation(kind, alpha, beta))
    test_pieces_on_threads_equal_the_reference(case, monkeypatch)


@pytest.mark.parametrize("op_type", ["Relu", "Sigmoid", "Tanh", "Erf", "Gelu", "Exp", "LeakyRelu", "HardSwish"])
def test_special_numbers(op_type, monkeypatch):
    x = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e-30, 88.6, 89, -87, -104, 1e30, -1e30, *np.linspace(-12, 12, 200)], np.float32)
    with np.errstate(all="ignore"):
        node, arrays = make_node(op_type, [x])
    found, names = run_pieces(Case("", op_type, (x,), ""), node, arrays, [Region.whole(x.shape)], 1, True, monkeypatch)
    expected = op_for(node).run(node, [x], Region.whole(x.shape))[0]
    assert names == [f"f32_{op_type.lower()}"]
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


def test_nan_goes_through_max_pool_and_relu(monkeypatch):
    x = some(1, 2, 6, 6)
    x[0, 1, 3, 3] = np.nan
    node, arrays = make_node("MaxPool", [x], {"kernel_shape": (2, 2)})
    found, _ = run_pieces(Case("", "MaxPool", (x,), ""), node, arrays, [Region.whole(node.output.shape)], 1, True, monkeypatch)
    np.testing.assert_array_equal(found, op_for(node).run(node, [x], Region.whole(node.output.shape))[0])
    assert np.isnan(found).sum() == 4


def test_infinite_padding_of_attention_masks(monkeypatch):
    x = some(3, 40)
    x[:, 17:] = -np.inf
    node, arrays = make_node("Softmax", [x], {"axis": -1})
    found, _ = run_pieces(Case("", "Softmax", (x,), ""), node, arrays, [Region.whole(x.shape)], 1, True, monkeypatch)
    assert (found[:, 17:] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_starting_a_kernel_allocates_nothing():
    case = next(c for c in CASES if c.label == "winograd 4")
    node, arrays = case.build()
    queue = CPU.queue(threads=2)
    x = windowed(arrays[0], Region.whole(arrays[0].shape), True)
    y = TensorView.contiguous(HostBuffer(node.output.type.nbytes), node.output.dtype, Region.whole(node.output.shape))
    kernel = queue.compile(node, y.region, [x, *node.inputs[1:]], [y])
    queue.seal()
    kernel.start()
    queue.begin_run()
    tracemalloc.start()
    try:
        kernel.start()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        kernel.start()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        queue.end_run()
        queue.close()
    assert peak - before < 2048, f"{peak - before} bytes"


def test_weights_are_packed_once_for_threads_that_share_them():
    case = next(c for c in CASES if c.label == "pointwise")
    node, arrays = case.build()
    queue = CPU.queue(threads=2)
    x = windowed(arrays[0], Region.whole(arrays[0].shape), True)
    y = TensorView.contiguous(HostBuffer(node.output.type.nbytes), node.output.dtype, Region.whole(node.output.shape))
    queue.compile(node, y.region, [x, *node.inputs[1:]], [y])
    once = queue.scratch_bytes
    queue.compile(node, y.region, [x, *node.inputs[1:]], [y])
    assert queue.scratch_bytes == once > 0


def test_blas_is_held_to_one_thread_while_any_run_lasts_and_given_back():
    libraries = blas.libraries()
    assert libraries, "NumPy's BLAS was not found"
    before = [lib.get_num_threads() for lib in libraries]
    for lib in libraries:
        lib.set_num_threads(2)
    try:
        first, second = CPU.queue(), CPU.queue()
        first.begin_run()  # no kernel of it uses BLAS
        assert [lib.get_num_threads() for lib in libraries] == [2] * len(libraries)
        first.end_run()
        for queue in (first, second):
            queue.expect_reference()
        first.begin_run()
        second.begin_run()
        first.end_run()
        assert [lib.get_num_threads() for lib in libraries] == [1] * len(libraries)
        second.end_run()
        assert [lib.get_num_threads() for lib in libraries] == [2] * len(libraries)
        with blas.held_to_one():
            assert libraries[0].get_num_threads() == 1
    finally:
        for lib, count in zip(libraries, before):
            lib.set_num_threads(count)


def test_a_blas_that_comes_later_is_held_too():
    """In a process of its own: SciPy brings another library than NumPy's, mostly when it is needed, and after the first search."""
    told = """
import sys
from coexec.devices.cpu import blas
before = blas.libraries()
assert "scipy.linalg" not in sys.modules
import scipy.linalg
assert len(blas.libraries()) > len(before) > 0
with blas.held_to_one():
    print({lib.get_num_threads() for lib in blas.libraries()})
"""
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "2"})
    assert found.stdout.strip() == "{1}", found.stderr


@pytest.mark.parametrize("label", ["depthwise", "maxpool"])
def test_channel_wise_operators_are_shared_by_channels(label):
    """What a convolution shared by channels wrote is then read by the thread that wrote it; with too few channels, by rows."""
    def parts(channels: int, threads: int) -> list[Region]:
        x, y = (Value(n, TensorType(np.dtype(np.float32), (1, channels, 128, 128))) for n in "xy")
        if label == "maxpool":
            node = Node("MaxPool", (x,), (y,), {"kernel_shape": [3, 3], "pads": [1] * 4})
        else:
            node = Node("Conv", (x, constant("w", np.ones((channels, 1, 3, 3), np.float32))), (y,), {"group": channels, "pads": [1] * 4})
        return device.shares(op_for(node), node, Region.whole(y.shape), threads)

    assert [p.shape for p in parts(96, 2)] == [(1, 48, 128, 128)] * 2
    assert [p.shape for p in parts(6, 4)] == [(1, 6, 32, 128)] * 4


def test_a_window_of_a_table_is_gathered_without_a_copy_of_the_table():
    rng = np.random.default_rng(0)
    table, words = rng.random((1000, 64), np.float32), rng.integers(-1000, 1000, (1, 20))
    node = Node("Gather", (constant("t", table), Value("i", TensorType(np.dtype(np.int64), words.shape))),
                (Value("y", TensorType(np.dtype(np.float32), (1, 20, 64))),))
    out = np.zeros((1, 20, 64), np.float32)
    for region in (Region.whole(out.shape).replace(2, (0, 24)), Region.whole(out.shape).replace(2, (24, 64))):
        assert len(device.shares(op_for(node), node, region, 2)) == 1
        target, given = (TensorView.contiguous(HostBuffer(a.nbytes), a.dtype, Region.whole(a.shape)) for a in (out, words))
        given.array[...] = words
        queue = CPU.queue()
        kernel = queue.compile(node, region, [node.inputs[0], given], [target.sub(region)])
        queue.seal()
        kernel.start().wait()
        assert "gather_window" in kernel.implementation
        out[..., region[2].start:region[2].stop] = target.sub(region).array
    assert np.array_equal(out, table[words])


def test_a_team_runs_every_task_and_hands_errors_to_the_caller():
    team, seen = ThreadTeam(3), []
    team.run([lambda: seen.append(threading.get_ident())] * 3)
    assert len(set(seen)) == 3 and threading.get_ident() in seen

    def fail():
        raise ZeroDivisionError("on a worker")

    for tasks in ([lambda: None, fail, lambda: seen.append(0)], [fail, lambda: seen.append(0)]):
        with pytest.raises(ZeroDivisionError, match="on a worker"):
            team.run(tasks)
        assert seen[-1] == 0
    team.run([lambda: seen.append(1)] * 3)
    assert seen[-3:] == [1, 1, 1]
    team.close()
    team.close()


def test_device_says_what_it_is():
    assert CPU.name == "cpu" and CPU.facts.name and CPU.facts.compute_units >= 1 and not CPU.asynchronous
    with pytest.raises(UsageError):
        CPU.queue(threads=0)


def test_small_work_stays_on_one_thread_and_large_work_is_shared():
    small, _ = make_node("Relu", [some(4, 8)])
    large, _ = make_node("Relu", [some(64, 4096)])
    assert len(device.shares(op_for(small), small, Region.whole((4, 8)), 4)) == 1
    pieces = device.shares(op_for(large), large, Region.whole((64, 4096)), 4)
    assert [p.size for p in pieces] == [65536] * 4


def in_a_new_process(script: str, **environment: str) -> str:
    """What a script prints in a Python of its own."""
    root = Path(device.__file__).parents[3]
    found = subprocess.run([sys.executable, "-c", script], cwd=root, env={**os.environ, **environment}, capture_output=True, text=True,
                           timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout


SCRIPT = """
import sys
import numpy as np
from coexec import settings
from coexec.devices.base import HostBuffer, TensorView
from coexec.devices.cpu import CpuDevice
from coexec.graph.ir import Node, TensorType, Value
from coexec.regions import Region
print("numba" in sys.modules)
x, y = (TensorView.contiguous(HostBuffer(400), np.dtype("float32"), Region.whole((100,))) for _ in "xy")
x.array[...] = np.arange(100) - 50
kind = TensorType(np.dtype("float32"), (100,))
queue = CpuDevice().queue()
kernel = queue.compile(Node("Relu", (Value("x", kind),), (Value("y", kind),)), y.region, [x], [y])
queue.seal()
import numba
from coexec.devices.cpu.elementwise import rows_unary
print(len(rows_unary.overloads), sum(rows_unary.stats.cache_hits.values()))
kernel.start()
print(kernel.implementation, int(y.array.sum()), repr(numba.config.CACHE_DIR))
"""


def test_numba_is_imported_late_and_kernels_are_compiled_when_sealed_and_kept_on_disk(tmp_path):
    for hits in (0, 1):
        lines = in_a_new_process(SCRIPT, COEXEC_CACHE_DIR=str(tmp_path), NUMBA_CACHE_DIR="").splitlines()
        assert lines == ["False", f"1 {hits}", "f32_relu 1225 ''"]
    assert list(tmp_path.glob("numba/*/*/*.nbi"))


def test_a_cache_that_cannot_be_written_and_one_the_user_chose(tmp_path):
    blocked, chosen = tmp_path / "file", tmp_path / "chosen"
    blocked.write_text("")
    assert in_a_new_process(SCRIPT, COEXEC_CACHE_DIR=str(blocked), NUMBA_CACHE_DIR="").splitlines()[1:] == ["1 0", "f32_relu 1225 ''"]
    assert f"f32_relu 1225 {str(chosen)!r}" in in_a_new_process(SCRIPT, NUMBA_CACHE_DIR=str(chosen))
    assert list(chosen.glob("*/*.nbi"))

#!/usr/bin/env python3
"""Build the thirteen ONNX models that tests and benchmarks run on.

Each model is a published architecture with seeded random weights, so nothing is downloaded and
the same command writes the same bytes on every machine.  Random weights alone make a poor test:
signals die, blow up, or stop depending on the input.  The builder therefore follows a rough mean
and variance through the graph, scales every filter by them, and gives each normalization the
statistics that trained weights would have left there (see `Net`).

Importable: `ARCHITECTURES`, `make_model`, `make_input`, `count_flops`, `count_parameters`.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

MIN_OPSET = 17  # the first with LayerNormalization
BATCH_SYMBOL = "N"
OFFSET_SPREAD = 1.0  # channel offsets are uniform in +-OFFSET_SPREAD standard deviations
OFFSET_VAR = OFFSET_SPREAD**2 / 3
INT16_STD = 2**16 / math.sqrt(12)


class Dice:
    """A seeded source of numbers that are the same on every machine and NumPy version.

    Only the raw words of a bit generator are guaranteed stable by NumPy, so everything is derived
    from those, by exact integer sums and element-wise IEEE arithmetic.
    """

    def __init__(self, seed: int, name: str):
        self.bits = np.random.PCG64([seed, zlib.crc32(name.encode())])

    def words(self, count: int) -> np.ndarray:
        """`count` uint64."""
        return self.bits.random_raw(count)

    def int16(self, count: int) -> np.ndarray:
        """`count` int16 over their whole range."""
        return self.words(-(-count // 4)).astype("<u8", copy=False).view("<i2")[:count]

    def uniform(self, shape: Sequence[int], low: float, high: float) -> np.ndarray:
        """A float32 array of `shape`, uniform in [low, high)."""
        unit = (self.int16(math.prod(shape)).astype(np.float64) + 2**15) / 2**16
        return (low + (high - low) * unit).astype(np.float32).reshape(shape)


@dataclass(frozen=True)
class Tensor:
    """A value in the graph: its name, its shape without the batch dim, and its expected moments.

    `mean` is a scalar or one number per channel; `var` counts the spread between channels too.
    """

    name: str
    shape: tuple[int, ...]
    mean: float | np.ndarray = 0.0
    var: float = 1.0


class Net:
    """Collects nodes and weights; layer methods take and return `Tensor`.

    Channel counts are given as published; at tiny scale `ch` divides them by 8.  Two choices keep
    a deep random network useful as a test.  Filters sum to zero, so the positive mean that a Relu
    leaves is not carried on and outputs keep depending on the input.  Channel offsets (biases, BN
    shifts) are wide, because zero-sum filters without them are chaotic: every layer would amplify
    rounding errors, and comparing two engines would say little.
    """

    def __init__(self, name: str, seed: int = 0, batch_symbol: bool = False, tiny: bool = False):
        self.name, self.tiny = name, tiny
        self.batch = BATCH_SYMBOL if batch_symbol else 1
        self.dice = Dice(seed, name)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    # -- graph ---------------------------------------------------------------------------------

    def ch(self, channels: int) -> int:
        """The published channel count at this scale: as is, or an eighth (a multiple of 4)."""
        return max(4, channels // 32 * 4) if self.tiny else channels

    def side(self, pixels: int) -> int:
        """The published image side at this scale: whole, or a quarter (a multiple of 32)."""
        return max(64, pixels // 128 * 32) if self.tiny else pixels

    def _info(self, name: str, kind: int, shape: Sequence[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [self.batch, *shape])

    def input(self, name: str, shape: Sequence[int], kind: int = TensorProto.FLOAT) -> Tensor:
        self.inputs.append(self._info(name, kind, shape))
        return Tensor(name, tuple(shape))

    def image(self, height: int, width: int | None = None) -> Tensor:
        """The input [batch, 3, height, width]; sides as published."""
        return self.input("input", (3, self.side(height), self.side(width or height)))

    def output(self, x: Tensor, name: str = "output") -> None:
        """Makes `x` a graph output called `name`, renaming it wherever it occurs."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [name if old == x.name else old for old in names]
        self.outputs.append(self._info(name, TensorProto.FLOAT, x.shape))

    def const(self, name: str, value) -> str:
        """Adds an initializer (float64 becomes float32) and returns its name."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.weights.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def op(self, kind: str, *inputs: Tensor | str, shape=None, mean=None, var=None,
           consts: dict | None = None, **attributes) -> Tensor:
        """Adds a node on `inputs` and then `consts` ({suffix: array}, made its initializers).

        Shape and moments are the first input's unless given.
        """
        name = f"{kind.lower()}_{len(self.nodes)}"
        names = [getattr(i, "name", i) for i in inputs]
        names += [self.const(f"{name}.{key}", value) for key, value in (consts or {}).items()]
        self.nodes.append(helper.make_node(kind, names, [f"{name}.out"], name, **attributes))
        x = inputs[0]
        return Tensor(f"{name}.out", x.shape if shape is None else tuple(shape),
                      x.mean if mean is None else mean, x.var if var is None else var)

    # -- weights -------------------------------------------------------------------------------

    def filters(self, rows: int, fan_in: int, var: float) -> np.ndarray:
        """Float32 [rows, fan_in]; each row sums to zero and maps inputs of variance `var` to 1."""
        draw = self.dice.int16(rows * fan_in).reshape(rows, fan_in)
        means = draw.sum(axis=1, dtype=np.int64) / fan_in
        # In place: the largest matrix (VGG's) has 103 million weights.
        array = draw.astype(np.float32)
        array -= means.astype(np.float32)[:, None]
        array *= np.float32(1 / (INT16_STD * math.sqrt((fan_in - 1) * var)))
        return array

    def offsets(self, count: int, scale: float = 1.0) -> np.ndarray:
        return self.dice.uniform((count,), -OFFSET_SPREAD * scale, OFFSET_SPREAD * scale)

    # -- layers with weights -------------------------------------------------------------------

    def conv(self, x: Tensor, out: int, k: int = 1, stride: int = 1, pad: int | None = None,
             bias: bool = True, exact: bool = False) -> Tensor:
        """A k x k convolution, zero-padded by k // 2 unless told; `exact`: `out` is not scaled."""
        out = out if exact else self.ch(out)
        weight = self.filters(out, x.shape[0] * k * k, x.var).reshape(out, x.shape[0], k, k)
        params = {"weight": weight} | ({"bias": self.offsets(out)} if bias else {})
        return self._conv(x, params, k, stride, k // 2 if pad is None else pad, 1,
                          mean=0.0, var=1.0 + OFFSET_VAR * bias)

    def depthwise(self, x: Tensor, k: int = 3, stride: int = 1) -> Tensor:
        """One k x k filter a channel, not zero-sum (that would only pass edges), without bias."""
        channels, scale = x.shape[0], 1 / (INT16_STD * k * math.sqrt(x.var))
        draw = self.dice.int16(channels * k * k).reshape(channels, 1, k, k)
        mean = draw.sum(axis=(1, 2, 3), dtype=np.int64) * scale * x.mean
        return self._conv(x, {"weight": draw * scale}, k, stride, k // 2, channels, mean, 1.0)

    def _conv(self, x, params, k, stride, pad, group, mean, var) -> Tensor:
        out, sides = len(params["weight"]), [(s + 2 * pad - k) // stride + 1 for s in x.shape[1:]]
        return self.op("Conv", x, shape=(out, *sides), mean=mean, var=var, consts=params,
                       kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4, group=group)

    def upconv(self, x: Tensor, out: int, k: int = 3) -> Tensor:
        """A stride-2 transposed convolution that doubles the sides."""
        (channels, *sides), out = x.shape, self.ch(out)
        # Which taps meet a pixel depends on its parity, so the rows that sum to zero are per tap.
        rows = self.filters(out * k * k, channels, x.var * k * k / 4)
        weight = rows.reshape(out, k, k, channels).transpose(3, 0, 1, 2)
        return self.op("ConvTranspose", x, shape=(out, *(2 * s for s in sides)), mean=0.0, var=1.0,
                       consts={"weight": weight, "bias": self.offsets(out)}, kernel_shape=[k, k],
                       strides=[2, 2], pads=[k // 2] * 4, output_padding=[1, 1])

    def bn(self, x: Tensor, gain: float = 1.0, epsilon: float = 1e-5) -> Tensor:
        """BatchNormalization with the input's expected statistics, jittered; output std `gain`."""
        channels, std = x.shape[0], math.sqrt(x.var)
        return self.op("BatchNormalization", x, mean=0.0, var=gain**2 * (1 + OFFSET_VAR), consts={
            "scale": self.dice.uniform((channels,), 0.8 * gain, 1.2 * gain),
            "bias": self.offsets(channels, gain),
            "mean": x.mean + self.dice.uniform((channels,), -0.2 * std, 0.2 * std),
            "var": self.dice.uniform((channels,), 0.7 * x.var, 1.3 * x.var),
        }, epsilon=epsilon)

    def instance_norm(self, x: Tensor, gain: float = 1.0) -> Tensor:
        channels = x.shape[0]
        return self.op("InstanceNormalization", x, mean=0.0, var=gain**2 * (1 + OFFSET_VAR),
                       consts={"scale": self.dice.uniform((channels,), 0.8 * gain, 1.2 * gain),
                               "bias": self.offsets(channels, gain)}, epsilon=1e-5)

    def layer_norm(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        return self.op("LayerNormalization", x, mean=0.0, var=1.0, axis=-1, epsilon=1e-12,
                       consts={"scale": self.dice.uniform((width,), 0.8, 1.2),
                               "bias": self.dice.uniform((width,), -0.2, 0.2)})

    def gemm(self, x: Tensor, out: int) -> Tensor:
        """A fully connected layer on [batch, features]; the weight is [out, features]."""
        out = self.ch(out)
        weight = self.filters(out, x.shape[0], x.var)
        return self.op("Gemm", x, shape=(out,), mean=0.0, var=1.0 + OFFSET_VAR, transB=1,
                       consts={"weight": weight, "bias": self.offsets(out)})

    def linear(self, x: Tensor, out: int) -> Tensor:
        """MatMul and Add on [batch, tokens, features]; the weight is [features, out]."""
        weight = self.filters(out, x.shape[-1], x.var).T
        product = self.op("MatMul", x, shape=(x.shape[0], out), mean=0.0, var=1.0,
                          consts={"weight": weight})
        return self.op("Add", product, consts={"bias": self.offsets(out, 0.2)})

    # -- layers without weights ----------------------------------------------------------------

    def leaky_relu(self, x: Tensor, alpha: float) -> Tensor:
        moments = rectified(x.var, alpha)
        return self.op("LeakyRelu", x, **moments, alpha=alpha)

    def relu(self, x: Tensor) -> Tensor:
        return self.op("Relu", x, **rectified(x.var))

    def relu6(self, x: Tensor) -> Tensor:
        limits = {"min": np.float32(0), "max": np.float32(6)}
        return self.op("Clip", x, **rectified(x.var), consts=limits)

    def hard_swish(self, x: Tensor) -> Tensor:
        # About x / 2 + x^2 / 6 around zero.
        return self.op("HardSwish", x, mean=x.var / 6, var=x.var / 4 + x.var**2 / 18)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self.op("Add", x, y, mean=x.mean + y.mean, var=x.var + y.var)

    def concat(self, parts: Sequence[Tensor], axis: int = 1) -> Tensor:
        """Joins along `axis` of the full shape (1 is the first after the batch)."""
        shape = list(parts[0].shape)
        shape[axis - 1] = sum(part.shape[axis - 1] for part in parts)
        share = [part.shape[axis - 1] / shape[axis - 1] for part in parts]
        mean, var = (sum(s * getattr(part, moment) for s, part in zip(share, parts))
                     for moment in ("mean", "var"))
        return self.op("Concat", *parts, shape=shape, mean=mean, var=var, axis=axis)

    def max_pool(self, x: Tensor, k: int, stride: int, pad: int = 0, ceil: bool = False) -> Tensor:
        # Behind a Relu the variance of a maximum is close to that of one value.
        sides = [pooled(s, k, stride, pad, ceil) for s in x.shape[1:]]
        return self.op("MaxPool", x, shape=(x.shape[0], *sides), kernel_shape=[k, k],
                       strides=[stride] * 2, pads=[pad] * 4, ceil_mode=int(ceil))

    def global_pool(self, x: Tensor) -> Tensor:
        # What is left of the variance is mostly that between channels.
        return self.op("GlobalAveragePool", x, shape=(x.shape[0], 1, 1), var=0.3 * x.var)

    def flatten(self, x: Tensor) -> Tensor:
        return self.op("Flatten", x, shape=(math.prod(x.shape),), axis=1)

    def softmax(self, x: Tensor) -> Tensor:
        return self.op("Softmax", x, axis=-1)

    def upsample(self, x: Tensor) -> Tensor:
        """Doubles the sides by repeating pixels."""
        shape = (x.shape[0], *(2 * side for side in x.shape[1:]))
        scales = self.const(f"scales_{len(self.nodes)}", np.float32([1, 1, 2, 2]))
        return self.op("Resize", x, "", scales, shape=shape, mode="nearest", nearest_mode="floor",
                       coordinate_transformation_mode="asymmetric")

    def space_to_depth(self, x: Tensor, block: int) -> Tensor:
        channels, height, width = x.shape
        return self.op("SpaceToDepth", x, blocksize=block,
                       shape=(channels * block**2, height // block, width // block))

    def reflect(self, x: Tensor, pad: int) -> Tensor:
        shape = (x.shape[0], *(side + 2 * pad for side in x.shape[1:]))
        pads = np.int64([0, 0, pad, pad] * 2)
        return self.op("Pad", x, shape=shape, consts={"pads": pads}, mode="reflect")

    def transpose(self, x: Tensor, *order: int) -> Tensor:
        """Permutes the dims after the batch; `order` counts in the full shape."""
        return self.op("Transpose", x, shape=[x.shape[i - 1] for i in order], perm=[0, *order])

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        """Reshapes what is after the batch; the first dim is copied, so any batch will do."""
        return self.op("Reshape", x, shape=shape, consts={"shape": np.int64([0, *shape])})

    def matmul(self, x: Tensor, y: Tensor, var: float) -> Tensor:
        return self.op("MatMul", x, y, shape=(*x.shape[:-1], y.shape[-1]), mean=0.0, var=var)

    # -- blocks --------------------------------------------------------------------------------

    def conv_bn(self, x: Tensor, out: int, k: int = 1, stride: int = 1, gain: float = 1.0,
                epsilon: float = 1e-5) -> Tensor:
        return self.bn(self.conv(x, out, k, stride, bias=False), gain, epsilon)

    def conv_bn_relu(self, x: Tensor, out: int, k: int = 1, stride: int = 1,
                     epsilon: float = 1e-5) -> Tensor:
        return self.relu(self.conv_bn(x, out, k, stride, epsilon=epsilon))

    def classifier(self, x: Tensor, classes: int = 1000) -> Tensor:
        return self.gemm(self.flatten(self.global_pool(x)), classes)


def rectified(var: float, alpha: float = 0.0) -> dict[str, float]:
    """The moments of a centred Gaussian of variance `var` behind a (leaky) Relu."""
    mean = (1 - alpha) * math.sqrt(var / (2 * math.pi))
    return {"mean": mean, "var": (1 + alpha**2) / 2 * var - mean**2}


def pooled(side: int, k: int, stride: int, pad: int, ceil: bool) -> int:
    """The side behind a pooling window; rounded up, a window must still start inside."""
    span = side + 2 * pad - k
    out = -(-span // stride) + 1 if ceil else span // stride + 1
    return out - 1 if ceil and (out - 1) * stride >= side + pad else out


# -- architectures -----------------------------------------------------------------------------


def mobilenet_v1(net: Net) -> None:
    """MobileNet V1 1.0, 224: depthwise separable convolutions."""
    x = net.conv_bn_relu(net.image(224), 32, 3, 2)
    layers = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
              (1024, 2), (1024, 1)]
    for out, stride in layers:
        x = net.relu(net.bn(net.depthwise(x, 3, stride)))
        x = net.conv_bn_relu(x, out)
    net.output(net.classifier(x))


def mobilenet_v2(net: Net) -> None:
    """MobileNet V2 1.0, 224: inverted residuals with Relu6 (Clip)."""
    x, before = net.relu6(net.conv_bn(net.image(224), 32, 3, 2)), 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, out, repeats, first_stride in stages:
        for stride in [first_stride] + [1] * (repeats - 1):
            y = net.relu6(net.conv_bn(x, expand * before)) if expand > 1 else x
            y = net.relu6(net.bn(net.depthwise(y, 3, stride)))
            same = stride == 1 and before == out
            y = net.conv_bn(y, out, gain=0.5 if same else 1.0)
            x, before = net.add(x, y) if same else y, out
    net.output(net.classifier(net.relu6(net.conv_bn(x, 1280))))


def mobilenet_v3_large(net: Net) -> None:
    """MobileNet V3 Large, 224: HardSwish and squeeze-and-excitation with HardSigmoid."""
    eps = 1e-3
    x, before = net.hard_swish(net.conv_bn(net.image(224), 16, 3, 2, epsilon=eps)), 16
    blocks = [  # kernel, expanded, out, squeeze-and-excitation, activation, stride
        (3, 16, 16, False, net.relu, 1), (3, 64, 24, False, net.relu, 2),
        (3, 72, 24, False, net.relu, 1), (5, 72, 40, True, net.relu, 2),
        (5, 120, 40, True, net.relu, 1), (5, 120, 40, True, net.relu, 1),
        (3, 240, 80, False, net.hard_swish, 2), (3, 200, 80, False, net.hard_swish, 1),
        (3, 184, 80, False, net.hard_swish, 1), (3, 184, 80, False, net.hard_swish, 1),
        (3, 480, 112, True, net.hard_swish, 1), (3, 672, 112, True, net.hard_swish, 1),
        (5, 672, 160, True, net.hard_swish, 2), (5, 960, 160, True, net.hard_swish, 1),
        (5, 960, 160, True, net.hard_swish, 1)]
    for k, expanded, out, squeezed, act, stride in blocks:
        y = act(net.conv_bn(x, expanded, epsilon=eps)) if expanded != before else x
        y = act(net.bn(net.depthwise(y, k, stride), epsilon=eps))
        y = squeeze_excite(net, y, expanded) if squeezed else y
        same = stride == 1 and before == out
        y = net.conv_bn(y, out, gain=0.5 if same else 1.0, epsilon=eps)
        x, before = net.add(x, y) if same else y, out
    x = net.hard_swish(net.conv_bn(x, 960, epsilon=eps))
    x = net.hard_swish(net.gemm(net.flatten(net.global_pool(x)), 1280))
    net.output(net.gemm(x, 1000))


def squeeze_excite(net: Net, x: Tensor, channels: int) -> Tensor:
    """Scales each channel by a gate in [0, 1] computed from all channel means."""
    squeezed = (channels // 4 + 4) // 8 * 8
    squeezed += 8 if squeezed < 0.9 * (channels // 4) else 0
    gate = net.conv(net.relu(net.conv(net.global_pool(x), squeezed)), x.shape[0], exact=True)
    gate = net.op("HardSigmoid", gate, alpha=1 / 6, beta=0.5)
    return net.op("Mul", x, gate, mean=x.mean / 2, var=x.var * 0.28)


def squeezenet_1_1(net: Net) -> None:
    """SqueezeNet 1.1, 224: fire modules, no BatchNormalization, Softmax."""
    x = net.relu(net.conv(net.image(224), 64, 3, 2, pad=0))
    for squeeze, pool in [(16, True), (16, False), (32, True), (32, False), (48, True), (48, False),
                          (64, False), (64, False)]:
        x = net.max_pool(x, 3, 2, ceil=True) if pool else x
        s = net.relu(net.conv(x, squeeze))
        sides = [net.relu(net.conv(s, 4 * squeeze, k)) for k in (1, 3)]
        x = net.concat(sides)
    x = net.relu(net.conv(x, 1000))
    net.output(net.softmax(net.flatten(net.global_pool(x))))


def resnet_stages(net: Net, x: Tensor, depths: Sequence[int], bottleneck: bool) -> list[Tensor]:
    """A ResNet without its classifier: the outputs of the four stages, at strides 4 to 32."""
    x = net.max_pool(net.conv_bn_relu(x, 64, 7, 2), 3, 2, 1)
    stages, before = [], 64
    for index, depth in enumerate(depths):
        width = 64 << index
        out = 4 * width if bottleneck else width
        for stride in [1 if index == 0 else 2] + [1] * (depth - 1):
            if bottleneck:
                y = net.conv_bn_relu(net.conv_bn_relu(x, width), width, 3, stride)
                y = net.conv_bn(y, out, gain=0.5)
            else:
                y = net.conv_bn(net.conv_bn_relu(x, width, 3, stride), out, 3, gain=0.5)
            skip = x if stride == 1 and before == out else net.conv_bn(x, out, 1, stride)
            x, before = net.relu(net.add(y, skip)), out
        stages.append(x)
    return stages


def resnet18(net: Net) -> None:
    """ResNet-18, 224."""
    net.output(net.classifier(resnet_stages(net, net.image(224), (2, 2, 2, 2), False)[-1]))


def resnet50(net: Net) -> None:
    """ResNet-50 (stride in the 3x3 convolutions), 224."""
    net.output(net.classifier(resnet_stages(net, net.image(224), (3, 4, 6, 3), True)[-1]))


def googlenet(net: Net) -> None:
    """GoogLeNet (Inception v1 with BatchNormalization), 224: four-way branches, Softmax."""

    def conv(x: Tensor, out: int, k: int = 1, stride: int = 1) -> Tensor:
        return net.conv_bn_relu(x, out, k, stride, epsilon=1e-3)

    x = net.max_pool(conv(net.image(224), 64, 7, 2), 3, 2, ceil=True)
    x = conv(conv(x, 64), 192, 3)
    inceptions = [  # pooling window before, 1x1, 3x3 (reduce, out), second 3x3 (same), pool branch
        (3, 64, 96, 128, 16, 32, 32), (0, 128, 128, 192, 32, 96, 64),
        (3, 192, 96, 208, 16, 48, 64), (0, 160, 112, 224, 24, 64, 64),
        (0, 128, 128, 256, 24, 64, 64), (0, 112, 144, 288, 32, 64, 64),
        (0, 256, 160, 320, 32, 128, 128), (2, 256, 160, 320, 32, 128, 128),
        (0, 384, 192, 384, 48, 128, 128)]
    for window, one, reduce_a, a, reduce_b, b, pool in inceptions:
        x = net.max_pool(x, window, 2, ceil=True) if window else x
        x = net.concat([conv(x, one), conv(conv(x, reduce_a), a, 3), conv(conv(x, reduce_b), b, 3),
                        conv(net.max_pool(x, 3, 1, 1, ceil=True), pool)])
    net.output(net.softmax(net.classifier(x)))


def vgg16(net: Net) -> None:
    """VGG-16, 224: 3x3 convolutions with bias and three large Gemm."""
    x = net.image(224)
    for out, depth in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(depth):
            x = net.relu(net.conv(x, out, 3))
        x = net.max_pool(x, 2, 2)
    x = net.flatten(x)
    for _ in range(2):
        x = net.relu(net.gemm(x, 4096))
    net.output(net.gemm(x, 1000))


def yolov2(net: Net) -> None:
    """YOLOv2 (COCO), 416: Darknet-19, LeakyRelu, a passthrough by SpaceToDepth, 425 channels."""

    def conv(x: Tensor, out: int, k: int) -> Tensor:
        return net.leaky_relu(net.conv_bn(x, out, k), 0.1)

    def pyramid(x: Tensor, out: int, depth: int) -> Tensor:
        for index in range(depth):
            x = conv(x, out if index % 2 == 0 else out // 2, 3 if index % 2 == 0 else 1)
        return x

    x = net.image(416)
    for out, depth in [(32, 1), (64, 1), (128, 3), (256, 3), (512, 5)]:
        x = net.max_pool(x, 2, 2) if out > 32 else x
        x = pyramid(x, out, depth)
    fine = net.space_to_depth(conv(x, 64, 1), 2)
    coarse = pyramid(net.max_pool(x, 2, 2), 1024, 5)
    coarse = conv(conv(coarse, 1024, 3), 1024, 3)
    x = conv(net.concat([fine, coarse]), 1024, 3)
    net.output(net.conv(x, 425, exact=True))


def posenet(net: Net) -> None:
    """Hand PoseNet, 256: VGG-like encoder, then two 7x7 stages refining 21 belief maps."""

    def conv(x: Tensor, out: int, k: int = 3) -> Tensor:
        return net.leaky_relu(net.conv(x, out, k), 0.01)

    x = net.image(256)
    for widths in [(64, 64), (128, 128), (256, 256, 256, 256)]:
        for out in widths:
            x = conv(x, out)
        x = net.max_pool(x, 2, 2)
    for out in (512, 512, 256, 256, 256, 256, 128):
        x = conv(x, out)
    encoding, maps = x, net.conv(conv(x, 512, 1), 21, exact=True)
    for _ in range(2):
        x = net.concat([maps, encoding])
        for _ in range(5):
            x = conv(x, 128, 7)
        maps = net.conv(conv(x, 128, 1), 21, exact=True)
    net.output(maps, "belief_maps")


def retinaface(net: Net) -> None:
    """RetinaFace with ResNet-50, 320: feature pyramid, SSH context, box/class/landmark heads."""
    levels = resnet_stages(net, net.image(320), (3, 4, 6, 3), True)[1:]
    fine, middle, coarse = (net.conv_bn_relu(level, 256) for level in levels)
    middle = net.conv_bn_relu(net.add(middle, net.upsample(coarse)), 256, 3)
    fine = net.conv_bn_relu(net.add(fine, net.upsample(middle)), 256, 3)
    features = [ssh(net, level) for level in (fine, middle, coarse)]
    boxes, scores, landmarks = (
        net.concat([head(net, feature, width) for feature in features]) for width in (4, 2, 10))
    net.output(boxes, "boxes")
    net.output(net.softmax(scores), "scores")
    net.output(landmarks, "landmarks")


def ssh(net: Net, x: Tensor) -> Tensor:
    """A single-stage-headless context module: fields of 3x3, 5x5 and 7x7, joined."""
    shared = net.conv_bn_relu(x, 64, 3)
    five = net.conv_bn(shared, 64, 3)
    seven = net.conv_bn(net.conv_bn_relu(shared, 64, 3), 64, 3)
    return net.relu(net.concat([net.conv_bn(x, 128, 3), five, seven]))


def head(net: Net, x: Tensor, width: int) -> Tensor:
    """`width` numbers for each of two anchors a pixel: [batch, 2 * height * width, width]."""
    y = net.transpose(net.conv(x, 2 * width, exact=True), 2, 3, 1)
    return net.reshape(y, 2 * math.prod(x.shape[1:]), width)


def fast_style_transfer(net: Net) -> None:
    """Fast style transfer, 320x480: InstanceNormalization, residual blocks, ConvTranspose, Tanh."""

    def conv(x: Tensor, out: int, k: int, stride: int = 1, gain: float = 1.0) -> Tensor:
        padded = net.reflect(x, k // 2)
        return net.instance_norm(net.conv(padded, out, k, stride, pad=0), gain)

    x = net.image(320, 480)
    for out, k, stride in [(32, 9, 1), (64, 3, 2), (128, 3, 2)]:
        x = net.relu(conv(x, out, k, stride))
    for _ in range(5):
        x = net.add(x, conv(net.relu(conv(x, 128, 3)), 128, 3, gain=0.5))
    for out in (64, 32):
        x = net.relu(net.instance_norm(net.upconv(x, out)))
    x = net.conv(net.reflect(x, 4), 3, 9, pad=0, exact=True)
    net.output(net.op("Tanh", x))


def bert_mini(net: Net) -> None:
    """BERT-mini, 128 tokens: 4 layers, width 256, 4 heads, Gelu by Erf, a pooled output."""
    tokens, width = (16 if net.tiny else 128), net.ch(256)
    ids = net.input("input_ids", (tokens,), TensorProto.INT64)
    mask = net.input("attention_mask", (tokens,), TensorProto.INT64)
    x = embed(net, ids, net.ch(30522), width)
    mask = net.op("Unsqueeze", mask, shape=(1, 1, tokens), consts={"axes": np.int64([1, 2])})
    mask = net.op("Cast", mask, to=TensorProto.FLOAT)
    mask = net.op("Sub", net.const("one", np.float32(1)), mask, shape=mask.shape, mean=0.0, var=1.0)
    mask = net.op("Mul", mask, consts={"lowest": np.float32(-10000)})
    for _ in range(4):
        x = net.layer_norm(net.add(attention(net, x, mask, heads=4), x))
        y = net.linear(gelu(net, net.linear(x, 4 * width)), width)
        x = net.layer_norm(net.add(y, x))
    first = net.op("Gather", x, shape=(width,), consts={"first": np.int64(0)}, axis=1)
    pooled_output = net.op("Tanh", net.gemm(first, 256))
    net.output(x, "last_hidden_state")
    net.output(pooled_output, "pooler_output")


def embed(net: Net, ids: Tensor, vocabulary: int, width: int) -> Tensor:
    """The normalized sum of word, position and token-type vectors: [batch, tokens, width]."""
    tokens = ids.shape[0]
    words, places = (net.dice.uniform((rows, width), -1, 1) for rows in (vocabulary, net.ch(512)))
    x = net.op("Gather", net.const("embeddings.word", words), ids, shape=(tokens, width),
               mean=0.0, var=1 / 3)
    place = net.op("Gather", net.const("embeddings.position", places), shape=(tokens, width),
                   mean=0.0, var=1 / 3, consts={"positions": np.arange(tokens)[None]})
    kind = net.dice.uniform((1, 1, width), -0.2, 0.2)  # one token type: its row is a constant
    return net.layer_norm(net.op("Add", net.add(x, place), consts={"token_type": kind}))


def attention(net: Net, x: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Multi-head self-attention and its output projection, on [batch, tokens, width]."""
    tokens, width = x.shape
    depth = width // heads
    q, k, v = (net.reshape(net.linear(x, width), tokens, heads, depth) for _ in range(3))
    scores = net.matmul(net.transpose(q, 2, 1, 3), net.transpose(k, 2, 3, 1), var=depth)
    scores = net.op("Div", scores, var=1.0, consts={"scale": np.float32(math.sqrt(depth))})
    weights = net.softmax(net.op("Add", scores, mask))
    # Weights of e^N(0, 1) average like about tokens / e equal ones.
    mixed = net.matmul(weights, net.transpose(v, 2, 1, 3), var=min(1.0, math.e / tokens))
    return net.linear(net.reshape(net.transpose(mixed, 2, 1, 3), tokens, width), width)


def gelu(net: Net, x: Tensor) -> Tensor:
    """x * (1 + erf(x / sqrt 2)) / 2 in elementary ops, as exporters write it at opset 17."""
    y = net.op("Erf", net.op("Div", x, consts={"sqrt2": np.float32(math.sqrt(2))}))
    y = net.op("Mul", x, net.op("Add", y, consts={"one": np.float32(1)}))
    return replace(net.op("Mul", y, consts={"half": np.float32(0.5)}), **rectified(x.var))


ARCHITECTURES: dict[str, Callable[[Net], None]] = {build.__name__: build for build in (
    mobilenet_v1, mobilenet_v2, mobilenet_v3_large, squeezenet_1_1, resnet18, resnet50, googlenet,
    vgg16, yolov2, posenet, retinaface, fast_style_transfer, bert_mini)}


# -- models and feeds --------------------------------------------------------------------------


def make_model(name: str, seed: int = 0, opset: int = MIN_OPSET, batch_symbol: bool = False,
               scale: str = "full") -> onnx.ModelProto:
    """Builds architecture `name` (a key of `ARCHITECTURES`) as a float32 model.

    Image models take `input` [1, 3, H, W]; bert_mini takes `input_ids` and `attention_mask`, int64
    [1, 128].  `batch_symbol` makes the batch dim of inputs and outputs "N" instead of 1; scale
    "tiny" keeps the topology with about an eighth of the channels and a quarter of the image side.
    """
    if scale not in ("full", "tiny"):
        raise ValueError(f"scale {scale!r} is neither 'full' nor 'tiny'")
    if not MIN_OPSET <= opset <= onnx.defs.onnx_opset_version():
        raise ValueError(f"opset {opset} is outside {MIN_OPSET}..{onnx.defs.onnx_opset_version()}")
    net = Net(name, seed, batch_symbol, scale == "tiny")
    ARCHITECTURES[name](net)
    graph = helper.make_graph(net.nodes, name, net.inputs, net.outputs, net.weights)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, producer_name="coexec",
                             ir_version=helper.find_min_ir_version_for(opsets))


def make_input(model: str | onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """A seeded feed {input name: array} for a model, or for an architecture at full size.

    Float inputs [N, C, H, W] are image-like with unit variance, other float inputs uniform of unit
    variance; integer inputs are ids below the rows of the table that they index, and ones where
    they index none (masks).  Symbolic dims become 1.
    """
    graph = (make_model(model) if isinstance(model, str) else model).graph
    dice, rows = Dice(seed, f"input of {graph.name}"), table_rows(graph)
    weights = {weight.name for weight in graph.initializer}
    feed = {}
    for value in (value for value in graph.input if value.name not in weights):
        tensor = value.type.tensor_type
        shape = [dim.dim_value or 1 for dim in tensor.shape.dim]
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if np.issubdtype(kind, np.floating):
            array = picture(dice, shape) if len(shape) == 4 else dice.uniform(shape, -1, 1) * 3**0.5
        elif value.name in rows:
            words = dice.words(math.prod(shape)) % np.uint64(rows[value.name])
            array = words.reshape(shape)
        else:
            array = np.ones(shape)
        feed[value.name] = array.astype(kind)
    return feed


def table_rows(graph: onnx.GraphProto) -> dict[str, int]:
    """For each tensor that a Gather reads as row indices of a weight: that weight's row count."""
    dims = {weight.name: weight.dims for weight in graph.initializer}
    gathers = [node.input for node in graph.node if node.op_type == "Gather"]
    return {ids: dims[table][0] for table, ids in gathers if table in dims}


def picture(dice: Dice, shape: Sequence[int]) -> np.ndarray:
    """Squares of 32, 8 and 1 pixels, summed: as in a photo, not all detail averages away."""
    *lead, height, width = shape
    layers = []
    for square in (32, 8, 1):
        coarse = dice.uniform([*lead, -(-height // square), -(-width // square)], -1, 1)
        layers.append(coarse.repeat(square, -2).repeat(square, -1)[..., :height, :width])
    return layers[0] + layers[1] + layers[2]  # each has a third of the variance


# -- sizes -------------------------------------------------------------------------------------


def count_parameters(model: onnx.ModelProto) -> int:
    """The number of float elements in the model's initializers."""
    return sum(math.prod(w.dims) for w in model.graph.initializer
               if w.data_type == TensorProto.FLOAT)


def count_flops(model: onnx.ModelProto) -> int:
    """Twice the multiply-adds of Conv, ConvTranspose, Gemm and MatMul, for batch 1."""
    shapes = infer_shapes(model)
    return 2 * sum(MACS[node.op_type](node, shapes) for node in model.graph.node
                   if node.op_type in MACS)


def infer_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Every tensor's shape by name, symbolic dims as 1."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    for weight in model.graph.initializer:  # large ones by shape only: copying them takes seconds
        if math.prod(weight.dims) > 64:
            info = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            bare.graph.input.append(info)
        else:
            bare.graph.initializer.append(weight)
    graph = shape_inference.infer_shapes(bare, strict_mode=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    dims = {value.name: value.type.tensor_type.shape.dim for value in values}
    shapes = {name: [dim.dim_value or 1 for dim in shape] for name, shape in dims.items()}
    return shapes | {weight.name: list(weight.dims) for weight in graph.initializer}


def _conv_macs(node, shapes) -> int:
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _upconv_macs(node, shapes) -> int:
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _matmul_macs(node, shapes) -> int:
    # Right for Gemm too: this file transposes only its weight.
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


MACS = {"Conv": _conv_macs, "ConvTranspose": _upconv_macs, "Gemm": _matmul_macs,
        "MatMul": _matmul_macs}


# -- command line ------------------------------------------------------------------------------

EXAMPLES = """examples:
  %(prog)s                            all thirteen models into models/ (about 1.4 GB)
  %(prog)s -o /tmp/m resnet18 vgg16   two of them, elsewhere
  %(prog)s --scale tiny               small ones for tests, NAME_tiny.onnx
  %(prog)s --batch-symbol resnet50    with a symbolic batch dim, resnet50_batch.onnx
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description="Build ONNX models with seeded random weights.",
                                epilog=EXAMPLES, allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", metavar="NAME", help="architectures (default: all)")
    p.add_argument("-o", "--output", type=Path, default=Path("models"), metavar="DIR",
                   help="folder to write to, made if missing (default: models)")
    p.add_argument("--list", action="store_true", help="list the architectures and exit")
    p.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    p.add_argument("--opset", type=int, default=MIN_OPSET,
                   help=f"ONNX opset, at least {MIN_OPSET} (default: {MIN_OPSET})")
    p.add_argument("--batch-symbol", action="store_true",
                   help=f"make the batch dim symbolic ({BATCH_SYMBOL}) instead of 1")
    p.add_argument("--scale", choices=("full", "tiny"), default="full",
                   help="tiny: an eighth of the channels, a quarter of the sides (default: full)")
    p.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return p


def unknown_name(names: Sequence[str]) -> str | None:
    """What to say about the first name that is no architecture; None where all are known."""
    for name in names:
        if name not in ARCHITECTURES:
            close = difflib.get_close_matches(name.lower(), ARCHITECTURES, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]!r}?" if close else "--list shows them all"
            return f"unknown model {name!r}; {hint}"
    return None


def write(model: onnx.ModelProto, path: Path) -> int:
    """Writes the model so that `path` is never half a file; returns its size in bytes."""
    data = model.SerializeToString(deterministic=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return len(data)


def build(name: str, options: argparse.Namespace) -> str:
    """Makes and writes one model; returns the line to print about it."""
    model = make_model(name, options.seed, options.opset, options.batch_symbol, options.scale)
    suffix = "_tiny" * (options.scale == "tiny") + "_batch" * options.batch_symbol
    size = write(model, options.output / f"{name}{suffix}.onnx")
    return (f"{name + suffix:<28} {size / 1e6:8.1f} MB {count_parameters(model) / 1e6:8.2f} Mparam "
            f"{count_flops(model) / 1e9:8.3f} GFLOP {len(model.graph.node):5d} nodes")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 on a failed write, 2 on a bad argument)."""
    p = parser()
    options = p.parse_args(arguments)
    if options.list:
        print("\n".join(f"{n:<20} {f.__doc__.splitlines()[0]}" for n, f in ARCHITECTURES.items()))
        return 0
    if problem := unknown_name(options.names):
        print(f"{p.prog}: error: {problem}", file=sys.stderr)
        return 2
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        for name in dict.fromkeys(options.names or ARCHITECTURES):
            line = build(name, options)
            if not options.quiet:
                print(line, flush=True)
    except ValueError as error:
        print(f"{p.prog}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{p.prog}: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

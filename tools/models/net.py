"""The builder that the architectures are written with: layers, seeded weights, expected moments."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BATCH_SYMBOL = "N"
OFFSET_SPREAD = 0.8  # channel offsets are uniform in +-OFFSET_SPREAD standard deviations
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
        return self.op("Gemm", x, shape=(out,), mean=0.0, var=1.0, transB=1,
                       consts={"weight": weight, "bias": self.offsets(out, 0.25)})

    def linear(self, x: Tensor, out: int) -> Tensor:
        """MatMul and Add on [batch, tokens, features]; the weight is [features, out]."""
        weight = self.filters(out, x.shape[-1], x.var).T
        product = self.op("MatMul", x, shape=(x.shape[0], out), mean=0.0, var=1.0,
                          consts={"weight": weight})
        return self.op("Add", product, consts={"bias": self.offsets(out, 0.2)})

    # -- layers without weights ----------------------------------------------------------------

    def leaky_relu(self, x: Tensor, alpha: float) -> Tensor:
        moments = rectified(x, alpha)
        return self.op("LeakyRelu", x, **moments, alpha=alpha)

    def relu(self, x: Tensor) -> Tensor:
        return self.op("Relu", x, **rectified(x))

    def relu6(self, x: Tensor) -> Tensor:
        limits = {"min": np.float32(0), "max": np.float32(6)}
        return self.op("Clip", x, **rectified(x), consts=limits)

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
        mean = sum(s * part.mean for s, part in zip(share, parts, strict=True))
        var = sum(s * part.var for s, part in zip(share, parts, strict=True))
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


def rectified(x: Tensor, alpha: float = 0.0) -> dict[str, float]:
    """The moments of a Gaussian with those of `x` behind a (leaky) Relu."""
    std = math.sqrt(x.var)
    t = x.mean / std
    above = (1 + math.erf(t / math.sqrt(2))) / 2  # the share of values above zero
    edge = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    mean = std * (t * (alpha + (1 - alpha) * above) + (1 - alpha) * edge)
    square = x.var * ((1 + t * t) * (alpha**2 + (1 - alpha**2) * above) + (1 - alpha**2) * t * edge)
    # Rounded, as erf and exp may differ in the last bit between machines.
    return {"mean": round(mean, 6), "var": round(square - mean**2, 6)}


def pooled(side: int, k: int, stride: int, pad: int, ceil: bool) -> int:
    """The side behind a pooling window; rounded up, a window must still start inside."""
    span = side + 2 * pad - k
    out = -(-span // stride) + 1 if ceil else span // stride + 1
    return out - 1 if ceil and (out - 1) * stride >= side + pad else out

"""A handful of small cases of every kernel family, for OpenCL implementations that are slow or strict.

    COEXEC_OPENCL=rusticl RUSTICL_ENABLE=llvmpipe python -m tests.device.driver_subset
    COEXEC_OPENCL=oclgrind oclgrind --data-races --check-api python -m tests.device.driver_subset

Prints a line per case; ends with 1 where one is wrong.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from ml_dtypes import bfloat16, float8_e4m3fn, float8_e5m2fnuz, int4

from coexec.devices.base import Device
from coexec.devices.registry import gpu_device
from coexec.graph.ir import Activation
from tests.ops.law import Const, make_node

from .harness import assert_on_device

#: ONNX's numbers of half, bfloat16, the 8-bit floats, int4, float4 and E8M0.
NARROW_TYPES = (10, 16, 17, 18, 19, 20, 22, 23, 24)


def halves(normal: Callable[..., np.ndarray]) -> list[tuple[str, list, dict]]:
    """Cases whose tensors are to be halves: each kernel that loads and stores them."""
    image = normal(1, 4, 7, 9)
    return [
        ("Sigmoid", [normal(3, 35)], {}), ("Add", [image, normal(4, 1, 1)], {}), ("Softmax", [normal(3, 19)], {}),
        ("ReduceMean", [image, Const(np.array([2, 3], np.int64))], {}), ("MaxPool", [image], {"kernel_shape": [2, 2]}),
        ("Gemm", [normal(3, 18), normal(18, 5)], {}), ("MatMul", [normal(9, 16), normal(16, 17)], {}),
        ("Conv", [image, normal(5, 4, 3, 3)], {"pads": [1, 1, 1, 1]}), ("Conv", [image, normal(4, 1, 3, 3)], {"group": 4}),
        ("LayerNormalization", [normal(3, 17), normal(17)], {}), ("LRN", [image], {"size": 3}), ("Transpose", [image], {}),
    ]


def cases(rng: np.random.Generator) -> list[tuple[str, list, dict]]:
    """(operator, inputs, attributes): small, with odd sizes so that every edge of a tile is met."""
    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def weight(*shape: int) -> Const:
        return Const(normal(*shape))

    def ints(*values: int) -> Const:
        return Const(np.array(values, np.int64))

    image = normal(1, 4, 7, 9)
    return [
        ("Conv", [image, weight(5, 4, 3, 3), weight(5)], {"pads": [1, 1, 1, 1]}),
        ("Conv", [normal(1, 17, 9, 8), weight(18, 17, 3, 3)], {"pads": [1, 1, 1, 1]}),
        ("Conv", [normal(1, 20, 6, 7), weight(19, 20, 1, 1), weight(19)], {}),
        ("Conv", [image, weight(6, 2, 3, 3)], {"group": 2, "strides": [2, 2], "dilations": [1, 2], "pads": [0, 1, 2, 1]}),
        ("Conv", [image, weight(4, 1, 3, 3), weight(4)], {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 1]}),
        ("ConvTranspose", [image, weight(4, 3, 3, 3), weight(3)], {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]}),
        ("Gemm", [normal(3, 18), weight(19, 18), weight(19)], {"transB": 1}),
        ("Gemm", [normal(1, 33), weight(33, 21)], {}),
        ("MatMul", [normal(2, 5, 6), normal(2, 6, 7)], {}),
        ("MaxPool", [image], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("AveragePool", [image], {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1]}),
        ("GlobalAveragePool", [image], {}),
        ("BatchNormalization", [image, weight(4), weight(4), weight(4), Const(rng.uniform(0.5, 2, 4).astype(np.float32))], {}),
        ("InstanceNormalization", [image, weight(4), weight(4)], {}),
        ("LayerNormalization", [normal(2, 3, 17), weight(17), weight(17)], {"axis": -1}),
        ("LRN", [image], {"size": 3}),
        ("Softmax", [normal(3, 19)], {"axis": -1}),
        ("Softmax", [image], {"axis": 1}),
        ("Sigmoid", [image], {}),
        ("HardSwish", [normal(1, 3, 5)], {}),
        ("Add", [image, normal(1, 4, 1, 1)], {}),
        ("Mul", [image, normal(1, 4, 7, 9)], {}),
        ("Where", [rng.random((4, 5)) > 0.5, normal(4, 5), normal(5)], {}),
        ("Clip", [image, Const(np.float32(-0.5)), Const(np.float32(0.5))], {}),
        ("ReduceMean", [image, ints(2, 3)], {"keepdims": 1}),
        ("ReduceMax", [image, ints(1)], {"keepdims": 0}),
        ("Transpose", [image], {"perm": [0, 2, 3, 1]}),
        ("Concat", [image, normal(1, 2, 7, 9)], {"axis": 1}),
        ("Slice", [image, ints(1, -1), ints(4, -8), ints(1, 2), ints(1, -2)], {}),
        ("Pad", [image, ints(0, 0, 1, 2, 0, 0, 1, 2)], {"mode": "reflect"}),
        ("Gather", [normal(6, 5), ints(4, 0, -1)], {"axis": 0}),
        ("Expand", [normal(3, 1), ints(2, 3, 4)], {}),
        ("Resize", [image, None, Const(np.array([1, 1, 2, 2], np.float32))], {"mode": "nearest"}),
        ("Resize", [image, None, Const(np.array([1, 1, 1.5, 2], np.float32))], {"mode": "linear"}),
        ("DepthToSpace", [image], {"blocksize": 2}),
        ("Cast", [image], {"to": 7}),
        ("QuantizeLinear", [image, Const(np.float32(0.05)), Const(np.uint8(120))], {}),
        ("DequantizeLinear", [rng.integers(-128, 128, (1, 4, 7, 9), np.int8), Const(rng.uniform(0.01, 0.1, 4).astype(np.float32)),
                              Const(np.arange(4, dtype=np.int8))], {"axis": 1}),
        *((op, [i.astype(np.float16) if isinstance(i, np.ndarray) and i.dtype == np.float32 else i for i in inputs], attributes)
          for op, inputs, attributes in halves(normal)),
        *(("Cast", [40 * image], {"to": to}) for to in NARROW_TYPES),
        *(("Cast", [image.astype(dtype)], {"to": 1}) for dtype in (np.float16, bfloat16, float8_e4m3fn, float8_e5m2fnuz, int4)),
        ("Dropout", [normal(20, 33), np.float32(0.4).reshape(()), np.array(True)], {"seed": 5}),
        ("BatchNormalization", [image, *(np.abs(normal(4)) for _ in range(4))], {"training_mode": 1}),
    ]


def run(device: Device, quick: bool) -> int:
    """How many cases are wrong."""
    rng, wrong = np.random.default_rng(0), 0
    for op, inputs, attributes in cases(rng):
        training = {"Dropout", "BatchNormalization"} & {op} and not isinstance(inputs[1], Const)
        node, arrays = make_node(op, inputs, attributes, judge=(lambda n, a: [a[0]]) if training else None)
        if op in ("Conv", "Gemm", "MatMul"):
            node = replace(node, activation=Activation("LeakyRelu", 0.1))
        try:
            assert_on_device(device, node, arrays, ulps=2048, limit=1 if quick else 3)
            print(f"ok     {op}", flush=True)
        except Exception:
            wrong += 1
            print(f"WRONG  {node}\n{traceback.format_exc()}", flush=True)
    return wrong


def main() -> int:
    device = gpu_device()
    print(f"{device.facts.name}, {device.facts.driver}", flush=True)
    wrong = run(device, quick="--quick" in sys.argv)
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Random chains of the operators that have image kernels, under random plans, forced onto images; for PoCL and for other drivers.

    COEXEC_OPENCL=rusticl RUSTICL_ENABLE=llvmpipe python -m tests.device.image_chains
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from coexec import settings
from coexec.api.models import bind, default_shapes, load
from coexec.devices.registry import find_devices
from coexec.ops.evaluate import evaluate
from coexec.partition import images
from coexec.partition.plan import on_one_device
from coexec.runtime.executor import PreparedRun
from tests.gpus import gpu_that_shares
from tests.runtime.random_graphs import random_plan

_KINDS = ("conv", "conv", "pointwise", "depthwise", "pool", "average", "unary", "clip", "binary")
_UNARY = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish")


def chain(rng: np.random.Generator, size: int) -> onnx.ModelProto:
    """A chain of `size` operators on a [N, C, H, W] input, with skips and fused tails; an Add and a pool are always there."""
    shape = (int(rng.integers(1, 3)), int(rng.integers(1, 10)), int(rng.integers(5, 14)), int(rng.integers(5, 14)))
    nodes, weights, tensors = [], [], [("x", shape)]

    def weight(*dims: int) -> str:
        numbers = rng.standard_normal(dims).astype(np.float32) / np.float32(np.sqrt(np.prod(dims[1:])))
        weights.append(numpy_helper.from_array(numbers, f"w{len(weights)}"))
        return weights[-1].name

    def add(op: str, inputs: list[str], made: tuple[int, ...], **attributes) -> None:
        tensors.append((f"t{len(nodes)}", made))
        nodes.append(helper.make_node(op, inputs, [tensors[-1][0]], name=f"n{len(nodes)}", **attributes))

    kinds = [*rng.choice(_KINDS, max(0, size - 3)), "conv", "add", "pool"]
    for kind in kinds:
        name, (n, c, h, w) = tensors[-1]
        stride, dilation = int(rng.choice([1, 1, 2])), int(rng.choice([1, 1, 2]))
        window = {"kernel_shape": [3, 3], "strides": [stride] * 2}
        smaller = (n, c, -(-h // stride), -(-w // stride))
        match kind:
            case "conv":
                out = int(rng.integers(1, 10))
                more = {"strides": [1, 1], "dilations": [dilation] * 2, "pads": [dilation] * 4} if dilation > 1 else {"auto_pad": "SAME_UPPER"}
                inputs = [name, weight(out, c, 3, 3), *([weight(out)] if rng.random() < 0.7 else [])]
                add("Conv", inputs, (n, out, h, w) if dilation > 1 else (n, out, *smaller[2:]), **{**window, **more})
            case "pointwise":
                out = int(rng.integers(1, 14))
                add("Conv", [name, weight(out, c, 1, 1), weight(out)], (n, out, h, w), kernel_shape=[1, 1])
            case "depthwise":
                add("Conv", [name, weight(c, 1, 3, 3), weight(c)], smaller, group=c, auto_pad="SAME_LOWER", **window)
            case "pool":
                add("MaxPool", [name], smaller, auto_pad="SAME_UPPER", **window)
            case "average":
                add("AveragePool", [name], (n, c, h, w), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=int(rng.integers(0, 2)))
            case "unary":
                add(str(rng.choice(_UNARY)), [name], (n, c, h, w))
            case "clip":
                weights.extend(numpy_helper.from_array(np.float32(v), f"b{len(nodes)}{e}") for v, e in ((-0.4, "l"), (0.6, "h")))
                add("Clip", [name, f"b{len(nodes)}l", f"b{len(nodes)}h"], (n, c, h, w))
            case "binary" | "add":
                same = [t for t, other in tensors if other == (n, c, h, w)]
                add("Add" if kind == "add" else str(rng.choice(["Sub", "Mul"])), [name, str(rng.choice(same))], (n, c, h, w))
    graph = helper.make_graph(nodes, "chain", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info(tensors[-1][0], TensorProto.FLOAT, tensors[-1][1])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def assert_right(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    for name, array in found.items():
        peak = np.abs(expected[name]).max() if expected[name].size else 0
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5 + 1e-4 * peak)


def holds_on_random_chains(sharing: str, counters: bool, seeds: range = range(40)) -> tuple[set[str], set[str]]:
    """Asserts the law; returns the kinds of kernels that worked on images, and at which ends there were transforms (`in`, `out`)."""
    with settings.override(sharing=sharing, opencl=gpu_that_shares(sharing)):
        devices = find_devices(need_gpu=True)
    kinds, ends = set(), set()
    for seed in seeds:
        rng = np.random.default_rng(seed)
        model = load(chain(rng, int(rng.integers(3, 9))))
        graph = bind(model, default_shapes(model))
        plan = random_plan(graph, rng)
        if rng.random() < 0.5:  # long runs on the GPU, cut or not
            plan = type(plan)("chain", graph.digest, "gpu", tuple(on_one_device(n, "gpu") for n in graph.nodes))
        feeds = {"x": rng.standard_normal(model.inputs[0].shape).astype(np.float32)}
        expected = evaluate(graph, feeds)
        with settings.override(handshake=counters, storage="image"):
            prepared = PreparedRun(graph, plan, devices)
        for step, kernel in prepared.kernels.items():
            if "_image_" in kernel.implementation:
                node = graph.node(step.node.name)
                kinds.add(images.kind_of(node))
                ends |= {"out"} if node.output not in prepared.pictures else set()
                ends |= {"in"} if any(v is not None and not v.is_constant and v not in prepared.pictures for v in node.inputs) else set()
        for _ in range(2):
            assert_right(prepared.run(feeds), expected)
        prepared.close()
    return kinds, ends


def main() -> int:
    print(find_devices(need_gpu=True)["gpu"].facts.name, *map(sorted, holds_on_random_chains("copy", False, range(12))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

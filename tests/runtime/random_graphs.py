"""Random small models with forks and joins, and random plans for them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from coexec.graph.ir import Graph
from coexec.ops import op_for
from coexec.ops.fallback import is_fallback
from coexec.partition.plan import Partition, Plan, on_one_device


def random_model(rng: np.random.Generator, size: int = 8) -> onnx.ModelProto:
    """A model of about `size` nodes on a [N, C, H, W] input; every operator's output may be read again later."""
    nodes, weights = [], []
    shape = (int(rng.integers(1, 3)), int(rng.integers(1, 7)), int(rng.integers(1, 12)), int(rng.integers(1, 12)))
    tensors: list[tuple[str, tuple[int, ...]]] = [("x", shape)]

    def weight(*dims: int) -> str:
        name = f"w{len(weights)}"
        weights.append(numpy_helper.from_array(rng.standard_normal(dims).astype(np.float32), name))
        return name

    def add(op: str, inputs: list[str], out_shape: tuple[int, ...], **attributes) -> None:
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], name=f"n{len(nodes)}", **attributes))
        tensors.append((name, out_shape))

    for _ in range(size):
        name, s = tensors[int(rng.integers(max(0, len(tensors) - 4), len(tensors)))]
        kind = rng.choice(["conv", "depthwise", "unary", "add", "pool", "concat", "bn", "view", "softmax", "scale", "transpose"])
        n, c, h, w = s
        match kind:
            case "conv":
                k, stride, out = int(rng.choice([1, 3])), int(rng.choice([1, 1, 2])), int(rng.integers(1, 9))
                add("Conv", [name, weight(out, c, k, k), weight(out)], (n, out, -(-h // stride), -(-w // stride)),
                    kernel_shape=[k, k], strides=[stride] * 2, auto_pad="SAME_UPPER")
            case "depthwise":
                add("Conv", [name, weight(c, 1, 3, 3)], s, kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=c)
            case "unary":
                add(str(rng.choice(["Relu", "Sigmoid", "HardSwish", "Tanh", "Abs"])), [name], s)
            case "add":
                same = [t for t, other in tensors if other == s]
                add(str(rng.choice(["Add", "Mul", "Max"])), [name, str(rng.choice(same))], s)
            case "pool":
                add(str(rng.choice(["MaxPool", "AveragePool"])), [name], s, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            case "concat":
                same = [(t, o) for t, o in tensors if o[0] == n and o[2:] == s[2:]]
                other, o = same[int(rng.integers(len(same)))]
                add("Concat", [name, other], (n, c + o[1], h, w), axis=1)
            case "bn":
                add("BatchNormalization", [name, weight(c), weight(c), weight(c), _positive(weights, rng, c)], s)
            case "scale":
                add("Mul", [name, weight(1, c, 1, 1)], s)
            case "view":
                shape_name = f"w{len(weights)}"
                weights.append(numpy_helper.from_array(np.array([n, c, w, h], np.int64), shape_name))
                add("Reshape", [name, shape_name], (n, c, w, h))
            case "softmax":
                add("Softmax", [name], s, axis=1)
            case "transpose":
                add("Transpose", [name], (n, c, w, h), perm=[0, 1, 3, 2])
    ends = list(dict.fromkeys([tensors[-1], tensors[int(rng.integers(1, len(tensors)))]]))
    graph = helper.make_graph(
        nodes, "random", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(t, TensorProto.FLOAT, s) for t, s in ends], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def _positive(weights: list, rng: np.random.Generator, count: int) -> str:
    name = f"w{len(weights)}"
    weights.append(numpy_helper.from_array(rng.uniform(0.5, 2, count).astype(np.float32), name))
    return name


def random_plan(graph: Graph, rng: np.random.Generator, parts: int = 3, devices: tuple[str, ...] = ("cpu", "gpu")) -> Plan:
    """Any legal plan: each node whole somewhere, or cut into up to `parts` pieces (some empty) on random devices; some run in bands.

    With more than two devices no rows are computed twice: the devices beside the host would have one copy for all of them.
    """
    chosen = []
    for node in graph.nodes:
        op = op_for(node)
        axes = () if is_fallback(op) else op.split_axes(node)
        device = str(rng.choice(devices))
        if is_fallback(op) or op.is_view:
            chosen.append(on_one_device(node, "cpu"))
        elif not axes or rng.random() < 0.3:
            chosen.append(on_one_device(node, device))
        else:
            axis = axes[int(rng.integers(len(axes)))]
            count = int(rng.integers(2, parts + 1))
            units = -(-axis.extent // axis.multiple)
            cuts = sorted(min(axis.extent, int(rng.integers(0, units + 1)) * axis.multiple) for _ in range(count - 1))
            halo = (0, 0) if rng.random() < 0.5 or len(devices) > 2 else tuple(int(h) * axis.multiple for h in rng.integers(0, 4, 2))
            chosen.append(Partition(node.name, node.op_type, axis.name, (0, *cuts, axis.extent),
                                    tuple(str(rng.choice(devices)) for _ in range(count)), halo=halo))
    return Plan("random", graph.digest, "random", tuple(chosen), band_bytes=int(rng.choice([0, 1, 1024])))

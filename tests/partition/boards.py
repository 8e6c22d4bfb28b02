"""Models and profiles by hand, for tests of planning."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from coexec.graph.ir import Graph
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import prepare
from coexec.profiles import DeviceProfile, Latency, Machine, UnitProfile

KERNELS = ("Conv", "Relu", "Add", "MaxPool", "GlobalAveragePool", "Gemm", "Softmax", "MatMul", "Concat", "Sigmoid", "Mul")


def board(cpu_gflops: float = 100.0, gpu_gflops: float = 150.0, launch_us: float = 5.0, sync_us: float = 30.0, gpu: bool = True,
          operators: tuple[str, ...] = KERNELS, **more: object) -> DeviceProfile:
    """A board whose latencies are straight lines in the work."""
    def latency(gflops: float) -> dict[str, Latency]:
        return {name: Latency({"fixed_us": 1.0, "us_per_mflop": 1e3 / gflops, "us_per_mbyte": 50.0}, 20, 5.0)
                for name in ("conv_1x1", "conv_3x3", "conv_dense", "conv_depthwise", "gemm", "elementwise", "pool", "reduction")}

    unit = UnitProfile("imagined gpu", gpu_gflops, 20.0, driver="1.0", operators=operators, launch_us=launch_us, sync_us=sync_us,
                       latency=latency(gpu_gflops), **more) if gpu else None  # type: ignore[arg-type]
    return DeviceProfile("test board", UnitProfile("imagined cpu", cpu_gflops, 20.0, threads=2, latency=latency(cpu_gflops)), unit,
                         Machine("bench", "none", "any", "2026-01-01", "0.1.0"))


class Net:
    """Builds an ONNX model node by node; `y = net("Relu", x)`."""

    def __init__(self, *shape: int):
        self.nodes: list = []
        self.weights: list = []
        self.shape = shape

    def weight(self, *shape: int) -> str:
        self.weights.append(numpy_helper.from_array(np.full(shape, 0.01, np.float32), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def __call__(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}:out"], name=name, **attributes))
        return f"{name}:out"

    def conv(self, x: str, channels_in: int, channels_out: int, kernel: int = 3, **attributes: object) -> str:
        group = int(attributes.get("group", 1))  # type: ignore[call-overload]
        return self("Conv", x, self.weight(channels_out, channels_in // group, kernel, kernel), pads=[kernel // 2] * 4, **attributes)

    def model(self, *outputs: str) -> ModelProto:
        graph = helper.make_graph(self.nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(self.shape))],
                                  [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])

    def graph(self, *outputs: str) -> Graph:
        return prepare(load_model(self.model(*outputs)))


def classifier(depth: int = 4, channels: int = 64, size: int = 56) -> Graph:
    """Convolutions, a pooling, a view and a fully connected layer."""
    net, x, made = Net(1, 3, size, size), "x", 3
    for _ in range(depth):
        x, made = net("Relu", net.conv(x, made, channels)), channels
    x = net("Flatten", net("GlobalAveragePool", x))
    return net.graph(net("Softmax", net("Gemm", x, net.weight(channels, 1000))))


def tangle() -> Graph:
    """Branches that join, a grouped convolution, a softmax, an operator that no GPU of these tests has, and one without a meaning here."""
    net = Net(2, 8, 15, 13)
    a = net.conv("x", 8, 16)
    b = net("Sigmoid", net.conv("x", 8, 16, 1))
    c = net("Concat", a, net("Mul", a, b), axis=1)
    d = net("Add", c, net.conv(c, 32, 32, group=4))
    e = net("Softmax", net("Abs", d), axis=-1)
    f = net("Det", net("Slice", e, *_slice(net)))
    return net.graph(e, f)


def _slice(net: Net) -> tuple[str, str, str]:
    for name, data in (("starts", [0, 0]), ("ends", [13, 13]), ("axes", [2, 3])):
        net.weights.append(numpy_helper.from_array(np.array(data, np.int64), name))
    return "starts", "ends", "axes"

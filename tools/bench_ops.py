#!/usr/bin/env python3
"""Single operators: what each kernel takes on the CPU and on the OpenCL device, and beside them ONNX Runtime's.

Every distinct operator of the models named (default: a list of usual shapes) is timed on each unit in turns, weights and outputs not in the
second-level cache, many launches to a wait, so that times are the kernel's own; what a launch and a wait cost is printed once. Medians and
the distance between quartiles over the rounds, GFLOP/s, and GB/s of what must be read and written.

    python tools/bench_ops.py                                      usual shapes
    python tools/bench_ops.py models/mobilenet_v2.onnx --threads 1
    python tools/bench_ops.py --units cpu,gpu --json after.json    for tools/compare_bench.py
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")

import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))
from benching import geometric_mean, machine, versions  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from coexec.api import bind, default_shapes, load  # noqa: E402
from coexec.devices.base import Device  # noqa: E402
from coexec.devices.registry import find_devices  # noqa: E402
from coexec.errors import CoexecError  # noqa: E402
from coexec.graph.ir import Node, TensorType, Value, constant  # noqa: E402
from coexec.ops import op_for  # noqa: E402
from coexec.ops.fallback import is_fallback  # noqa: E402
from coexec.profiling.fixed import fixed_costs  # noqa: E402
from coexec.profiling.measure import Bench, Timing, copies_for  # noqa: E402
from coexec.regions import Region  # noqa: E402

UNITS = ("cpu", "gpu", "onnxruntime")
#: batch, in channels, height, width, out channels, kernel, stride, groups: convolutions of the networks in make_models.py.
CONVS = [
    (1, 3, 224, 224, 32, 3, 2, 1), (1, 3, 224, 224, 64, 7, 2, 1), (1, 64, 56, 56, 64, 3, 1, 1), (1, 256, 14, 14, 256, 3, 1, 1),
    (1, 512, 7, 7, 512, 3, 1, 1), (1, 64, 56, 56, 256, 1, 1, 1), (1, 256, 14, 14, 1024, 1, 1, 1), (1, 960, 7, 7, 160, 1, 1, 1),
    (1, 16, 112, 112, 96, 1, 1, 1), (1, 144, 56, 56, 144, 3, 1, 144), (1, 384, 14, 14, 384, 3, 1, 384), (1, 96, 112, 112, 96, 3, 2, 96),
    (1, 128, 40, 60, 128, 3, 1, 1),
]
#: stacks, rows, depth, columns of matrix products.
MATMULS = [(1, 128, 256, 1024), (1, 128, 1024, 256), (4, 128, 64, 128), (1, 1, 2048, 1000)]


def usual() -> Iterator[Node]:
    """Nodes of those shapes, random weights."""
    rng = np.random.default_rng(0)

    def value(name: str, *shape: int) -> Value:
        return Value(name, TensorType(np.dtype(np.float32), shape))

    def weights(name: str, *shape: int) -> Value:
        return constant(name, rng.random(shape, np.float32) + np.float32(0.01))

    for n, c, h, w, oc, k, s, g in CONVS:
        pad = k // 2
        out = value("y", n, oc, (h + 2 * pad - k) // s + 1, (w + 2 * pad - k) // s + 1)
        yield Node("Conv", (value("x", n, c, h, w), weights("w", oc, c // g, k, k), weights("b", oc)), (out,),
                   {"kernel_shape": [k, k], "strides": [s, s], "pads": [pad] * 4, "group": g}, "conv")
    for stacks, rows, depth, columns in MATMULS:
        other = value("b", stacks, depth, columns) if stacks > 1 else weights("w", depth, columns)
        shape = (stacks, rows) if stacks > 1 else (rows,)
        yield Node("MatMul", (value("a", *shape, depth), other), (value("y", *shape, columns),), {}, "matmul")


def nodes_of(path: str) -> Iterator[Node]:
    """The prepared operators of a model that take time."""
    graph = load(path)
    for node in bind(graph, default_shapes(graph)).nodes:
        if node.is_static and node.output is not None and not is_fallback(op_for(node)) and not op_for(node).is_view and node.output.type.size:
            yield node


def title(node: Node) -> str:
    """What tells operators apart: type, shapes of the inputs and the output, attributes that matter, what is fused behind."""
    shapes = " ".join("x".join(map(str, v.shape)) for v in node.inputs if v is not None and v.shape)
    more = [f"{k[0]}{'x'.join(map(str, node.attr(k)))}" for k in ("strides", "dilations") if node.attr(k) and set(node.attr(k)) != {1}]
    more += [f"g{node.attr('group')}"] * (node.attr("group", 1) > 1) + ([node.activation.kind] if node.activation else []) + ["+"] * node.residual
    return f"{node.op_type} {shapes} -> {'x'.join(map(str, node.output.shape))} {' '.join(more)}".strip()


def peer(node: Node, threads: int) -> Callable[[], object] | None:
    """ONNX Runtime on that operator, without what is fused behind it; None where it cannot be asked."""
    try:
        import onnxruntime

        inputs = [v for v in node.operands if v is not None]
        kinds = {v.name: helper.np_dtype_to_tensor_dtype(v.dtype) for v in (*inputs, node.output)}
        made = helper.make_node(node.op_type, [v.name for v in inputs], [node.output.name], domain=node.domain, **node.attributes)
        graph = helper.make_graph(
            [made], "op", [helper.make_tensor_value_info(v.name, kinds[v.name], v.shape) for v in inputs if not v.is_constant],
            [helper.make_tensor_value_info(node.output.name, kinds[node.output.name], node.output.shape)],
            [numpy_helper.from_array(v.data, v.name) for v in inputs if v.is_constant])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {v.name: np.full(v.shape, 0.5, v.dtype) for v in inputs if not v.is_constant}
        session.run(None, feeds)
    except Exception:  # an operator that this peer does not take as it stands here: its column stays empty
        return None
    return lambda: session.run(None, feeds)


def time_peer(run: Callable[[], object], seconds: float) -> Timing:
    from coexec.profiling.measure import measure

    return measure(run, min_seconds=seconds)


def bench(node: Node, units: list[str], devices: dict[str, Device], threads: int, waits: dict[str, float], rounds: int, seconds: float) -> dict:
    """unit -> {us, spread_us, gflops, gbs, implementation} of one operator."""
    region = Region.whole(node.output.shape)
    work = op_for(node).work(node, region)
    ready: dict[str, Callable[[], Timing]] = {}
    opened, names = [], {}
    try:
        for unit in units:
            if unit == "onnxruntime":
                run = peer(node, threads)
                if run is not None:
                    ready[unit] = lambda run=run: time_peer(run, seconds)
            elif unit in devices and devices[unit].declines(node) is None:
                one = Bench(devices[unit], node, region, threads, copies=copies_for(node, region, 1 << 20))
                opened.append(one)
                names[unit] = one.kernel.implementation
                ready[unit] = lambda one=one, unit=unit: one.time(waits[unit], seconds)
        taken: dict[str, list[float]] = {unit: [] for unit in ready}
        for _ in range(rounds):
            for unit, time in ready.items():
                taken[unit].append(time().median_us)
    finally:
        for one in opened:
            one.close()
    found = {}
    for unit, values in taken.items():
        us = statistics.median(values)
        quartiles = np.percentile(values, [25, 75])
        found[unit] = {"us": us, "spread_us": float(quartiles[1] - quartiles[0]), "gflops": work.flops / us / 1e3,
                       "gbs": (work.bytes_read + work.bytes_written) / us / 1e3, "implementation": names.get(unit)}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=".onnx files; default: a list of usual shapes")
    parser.add_argument("--units", default=",".join(UNITS), help=f"comma-separated, of {', '.join(UNITS)} (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU and of ONNX Runtime (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="each times every unit once (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.02, help="of each timing (default: 0.02)")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    units = [u.strip() for u in options.units.split(",")]
    if unknown := [u for u in units if u not in UNITS]:
        parser.error(f"unknown unit {', '.join(unknown)}; known: {', '.join(UNITS)}")
    devices = find_devices()
    costs = {unit: fixed_costs(devices[unit], options.threads) for unit in units if unit in devices}
    waits = {unit: c["wait_us"] for unit, c in costs.items()}
    for unit, cost in costs.items():
        print(f"{unit}: launch {cost['launch_us']:.1f} us, wait {cost['sync_us']:.1f} us")
    try:
        nodes = {title(n): n for path in options.models for n in nodes_of(path)} if options.models else {title(n): n for n in usual()}
    except CoexecError as error:
        print(error, file=sys.stderr)
        return 4
    result: dict = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions(), "threads": options.threads,
                    "fixed_costs": costs, "ops": {}}
    print(f"{'operator':72} " + " ".join(f"{u:>20}" for u in units))
    for name, node in nodes.items():
        found = result["ops"][name] = bench(node, units, devices, options.threads, waits, options.rounds, options.seconds)
        cells = [f"{found[u]['us']:9.1f} us {found[u]['gflops']:5.0f} GF" if u in found else "-" for u in units]
        print(f"{name[:72]:72} " + " ".join(f"{c:>20}" for c in cells), flush=True)
    for unit in units:
        others = [o for o in result["ops"].values() if unit in o and "onnxruntime" in o]
        if unit != "onnxruntime" and others:
            ratio = geometric_mean([o[unit]["us"] / o["onnxruntime"]["us"] for o in others])
            print(f"{unit} / onnxruntime: {ratio:.3f}, geometric mean of {len(others)}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

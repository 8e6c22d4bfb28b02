"""Which pairs of operators a runtime fuses, found from the outside by nn-Meter's test: they are, where T1 + T2 - T12 > 0.5 min(T1, T2).

    python tools/find_fusion.py [--runtime coexec:cpu] [--runtime coexec:gpu] [--runtime onnxruntime] [--json out.json]

T1 and T2 are times of models of one operator, T12 of both one after the other; a model that only passes its input on is timed in turn with
them, and what a run of that takes (starting, copies in and out) is taken off each. Of coexec the truth is known, and printed beside:
whether its own passes made one node of two. A pair may differ where fusing does not pay, or where a cache makes the second operator cheap.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from coexec.api import InferenceSession, SessionOptions
from coexec.report.timing import interleave

#: A pair is fused where both together save more than this share of the shorter.
SHARE = 0.5
#: Shape of the input, and channels of the convolutions, that make elementwise operators long beside a run's fixed costs.
SHAPE = (1, 64, 112, 112)
#: A convolution's weights, and what an operator needs besides its input.
WEIGHTS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "Conv1x1": ("Conv", (64, 64, 1, 1), {}), "Conv3x3": ("Conv", (64, 64, 3, 3), {"pads": [1] * 4}),
    "Depthwise": ("Conv", (64, 1, 3, 3), {"pads": [1] * 4, "group": 64}), "Relu": ("Relu", (), {}), "HardSwish": ("HardSwish", (), {}),
    "Sigmoid": ("Sigmoid", (), {}), "MaxPool": ("MaxPool", (), {"kernel_shape": [3, 3], "pads": [1] * 4}),
    "Softmax": ("Softmax", (), {"axis": -1}), "Transpose": ("Transpose", (), {"perm": [0, 1, 3, 2]}), "Identity": ("Identity", (), {}),
}
PAIRS = [("Conv1x1", "Relu"), ("Conv3x3", "Relu"), ("Depthwise", "Relu"), ("Conv1x1", "HardSwish"), ("Conv1x1", "Sigmoid"), ("Relu", "Conv1x1"),
         ("Conv1x1", "MaxPool"), ("MaxPool", "Relu"), ("Conv1x1", "Conv1x1"), ("Depthwise", "Conv1x1"), ("Conv3x3", "Softmax"),
         ("Softmax", "Transpose"), ("Transpose", "Sigmoid")]


def fused(t1: float, t2: float, t12: float) -> bool:
    """nn-Meter's rule, of times in any unit."""
    return t1 + t2 - t12 > SHARE * min(t1, t2)


def model(*names: str) -> ModelProto:
    """A model of those operators one after another."""
    rng, nodes, weights, last = np.random.default_rng(0), [], [], "x"
    for number, name in enumerate(names):
        op_type, size, attributes = WEIGHTS[name]
        inputs = [last]
        if size:
            weights.append(numpy_helper.from_array(rng.random(size, np.float32) / np.float32(np.prod(size[1:])), f"w{number}"))
            inputs.append(f"w{number}")
        last = f"y{number}"
        nodes.append(helper.make_node(op_type, inputs, [last], name=f"{name}{number}", **attributes))
    graph = helper.make_graph(nodes, "pair", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(SHAPE))],
                              [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session(runtime: str, proto: ModelProto, threads: int) -> tuple[Callable[[dict[str, np.ndarray]], Any], int | None, Callable[[], None]]:
    """How to run the model there, how many nodes it became (None where nobody knows), and how to give it back."""
    if runtime.startswith("coexec:"):
        made = InferenceSession(proto, SessionOptions(intra_op_num_threads=threads), strategy=runtime.partition(":")[2])
        return lambda feeds: made.run(None, feeds), len(made.graph.nodes), made.close
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    other = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: other.run(None, feeds), None, lambda: None


def try_pair(runtime: str, first: str, second: str, rounds: int, threads: int) -> dict[str, Any]:
    """Milliseconds of each operator and of both, the verdict, and where it is known the truth."""
    models = {"t1": model(first), "t2": model(second), "t12": model(first, second), "nothing": model("Identity")}
    made = {name: session(runtime, proto, threads) for name, proto in models.items()}
    try:
        feeds = {"x": np.full(SHAPE, 0.5, np.float32)}
        times = interleave({name: (lambda run=run: run(feeds)) for name, (run, _, _) in made.items()}, 3, rounds)
    finally:
        for _, _, close in made.values():
            close()
    middle = {name: statistics.median(found) for name, found in times.items()}
    ms = {name: max(middle[name] - middle["nothing"], 1e-4) for name in ("t1", "t2", "t12")}
    nodes = made["t12"][1]
    return {"runtime": runtime, "first": first, "second": second, **{f"{k}_ms": v for k, v in ms.items()}, "fused": fused(**ms),
            "truth": None if nodes is None else nodes == 1}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", action="append", choices=("coexec:cpu", "coexec:gpu", "onnxruntime"),
                        help="may be given again (default: both of coexec)")
    parser.add_argument("--rounds", type=int, default=60, help="runs of each model (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--json", help="everything in numbers, to this file")
    options = parser.parse_args()
    found = []
    print(f"{'runtime':12} {'pair':24} {'T1':>8} {'T2':>8} {'T12':>8} ms  fused  truth")
    for runtime in options.runtime or ("coexec:cpu", "coexec:gpu"):
        for first, second in PAIRS:
            pair = try_pair(runtime, first, second, options.rounds, options.threads)
            found.append(pair)
            truth = {None: "unknown", True: "yes", False: "no"}[pair["truth"]]
            print(f"{runtime:12} {first + ' ' + second:24} {pair['t1_ms']:8.3f} {pair['t2_ms']:8.3f} {pair['t12_ms']:8.3f}     "
                  f"{'yes' if pair['fused'] else 'no':5}  {truth}{'' if pair['truth'] in (None, pair['fused']) else '  <- differs'}", flush=True)
    known = [p for p in found if p["truth"] is not None]
    if known:
        print(f"\nagrees with coexec's own passes in {sum(p['truth'] == p['fused'] for p in known)} of {len(known)} pairs")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

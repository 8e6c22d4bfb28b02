#!/usr/bin/env python3
"""coexec beside ONNX Runtime, OpenVINO and MNN: the same ONNX files, the same input, the same cores, float32.

Every round runs every engine in turn, so that a slow minute of the machine meets all of them; figures are medians over the rounds.
Outputs are compared with ONNX Runtime's. A peer that is not installed is named and left out (`pip install coexec[bench]`).

    python tools/bench_peers.py                                  thirteen models, one and two cores
    python tools/bench_peers.py --rounds 5 mobilenet_v2 resnet18
    python tools/bench_peers.py --json bench.json --markdown docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")

import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))
import make_models  # noqa: E402
import onnx  # noqa: E402
from benching import geometric_mean, machine, versions  # noqa: E402

import coexec  # noqa: E402

Run = Callable[[], list[np.ndarray]]

#: What is compared with what: figure name -> (coexec's engine, the peers it is held against).
COMPARISONS = {
    "cpu, one core": ("coexec cpu 1T", ["onnxruntime 1T"]),
    "gpu, one core": ("coexec gpu 1T", ["onnxruntime 1T"]),
    "co-executed, two cores": ("coexec 2", ["onnxruntime 2T", "openvino 2T", "mnn 2T"]),
    "co-executed over the best single device": ("coexec 2", ["coexec cpu 1T", "coexec gpu 1T"]),
}


def coexec_engine(strategy: str, threads: int, verify: bool = False) -> Callable[[str, dict], Run]:
    """A session of ours with that strategy; `verify` as `coexec bench --verify`."""
    def prepare(path: str, feeds: dict) -> Run:
        options = coexec.SessionOptions(intra_op_num_threads=threads, verify=verify)
        session = coexec.InferenceSession(path, options, strategy=strategy)
        return lambda: session.run(None, feeds)

    return prepare


def onnxruntime_engine(threads: int) -> Callable[[str, dict], Run]:
    def prepare(path: str, feeds: dict) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feeds)

    return prepare


def openvino_engine(threads: int) -> Callable[[str, dict], Run]:
    def prepare(path: str, feeds: dict) -> Run:
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        request, names = compiled.create_infer_request(), [o.get_any_name() for o in compiled.outputs]

        def run() -> list[np.ndarray]:
            found = request.infer(feeds)
            return [np.array(found[n]) for n in names]

        return run

    return prepare


def mnn_engine(threads: int) -> Callable[[str, dict], Run]:
    def prepare(path: str, feeds: dict) -> Run:
        import MNN.expr as expr
        import MNN.nn as nn

        folder = tempfile.mkdtemp()
        converted = os.path.join(folder, "model.mnn")
        tool = Path(sys.executable).parent / "mnnconvert"
        subprocess.run([str(tool), "-f", "ONNX", "--modelFile", path, "--MNNModel", converted, "--bizCode", "bench"], check=True, capture_output=True)
        model = onnx.load(path, load_external_data=False)
        inputs, outputs = list(feeds), [o.name for o in model.graph.output]
        runtime = nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": threads},))
        module = nn.load_module_from_file(converted, inputs, outputs, runtime_manager=runtime)
        os.unlink(converted)
        # MNN has no 64-bit integers; token ids and masks go in as 32-bit ones.
        values = [expr.const(np.ascontiguousarray(a.astype(np.int32)), list(a.shape), expr.NCHW, expr.int) if a.dtype.kind in "iu"
                  else expr.const(np.ascontiguousarray(a), list(a.shape), expr.NCHW) for a in feeds.values()]

        def run() -> list[np.ndarray]:
            found = module.forward(values)
            found = found if isinstance(found, (list, tuple)) else [found]
            return [np.array(expr.convert(v, expr.NCHW).read()) for v in found]

        return run

    return prepare


ENGINES: dict[str, Callable[[str, dict], Run]] = {
    "coexec cpu 1T": coexec_engine("cpu", 1),
    "coexec gpu 1T": coexec_engine("gpu", 1),
    "coexec 2": coexec_engine("coexec", 1, verify=True),
    "onnxruntime 1T": onnxruntime_engine(1),
    "onnxruntime 2T": onnxruntime_engine(2),
    "openvino 1T": openvino_engine(1),
    "openvino 2T": openvino_engine(2),
    "mnn 1T": mnn_engine(1),
    "mnn 2T": mnn_engine(2),
}


def error_of(found: list[np.ndarray], reference: list[np.ndarray]) -> float:
    """Largest absolute error over the reference's largest magnitude, worst output."""
    return max(float(np.abs(np.asarray(a, np.float64).reshape(b.shape) - b).max() / (np.abs(b).max() or 1.0))
               for a, b in zip(found, reference, strict=True))


def bench(path: str, engines: list[str], rounds: int, budget_s: float) -> dict[str, dict]:
    """engine -> {p50_ms, min_ms, spread, error, create_s} on one model."""
    feeds = make_models.make_input(onnx.load(path))
    ready: dict[str, Run] = {}
    found: dict[str, dict] = {}
    reference = onnxruntime_engine(1)(path, feeds)()
    for name in engines:
        started = time.perf_counter()
        try:
            ready[name] = ENGINES[name](path, feeds)
        except (ImportError, FileNotFoundError, subprocess.CalledProcessError, RuntimeError) as error:
            print(f"  {name} left out: {type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}", file=sys.stderr)
            continue
        created = time.perf_counter() - started
        found[name] = {"create_s": created, "error": error_of(ready[name](), reference)}
        ready[name]()
    times: dict[str, list[float]] = {name: [] for name in ready}
    once = {}
    for name, run in ready.items():
        started = time.perf_counter()
        run()
        once[name] = time.perf_counter() - started
    rounds = max(5, min(rounds, int(budget_s / max(1e-3, sum(once.values())))))
    for _ in range(rounds):
        for name, run in ready.items():
            run()  # the engine before left its own data in the caches, and its threads spinning
            for _ in range(1 if once[name] > 0.05 else 3):
                started = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - started)
    for name, values in times.items():
        values.sort()
        found[name] |= {"p50_ms": statistics.median(values) * 1e3, "min_ms": values[0] * 1e3, "count": len(values),
                        "spread": (values[int(0.9 * (len(values) - 1))] - values[int(0.1 * (len(values) - 1))]) / statistics.median(values)}
    return found


def compare(models: dict[str, dict[str, dict]]) -> dict[str, dict]:
    """comparison -> {"ratios": {model: ours / best other}, "geomean", "worst"}."""
    result = {}
    for title, (ours, others) in COMPARISONS.items():
        ratios = {}
        for model, engines in models.items():
            best = [engines[o]["p50_ms"] for o in others if o in engines]
            if ours in engines and best:
                ratios[model] = engines[ours]["p50_ms"] / min(best)
        if ratios:
            result[title] = {"ours": ours, "others": others, "ratios": ratios, "geomean": geometric_mean(list(ratios.values())),
                             "worst": max(ratios.values())}
    return result


def markdown(result: dict) -> str:
    """The page that is kept under docs/."""
    engines = [e for e in ENGINES if any(e in m for m in result["models"].values())]
    lines = ["# Benchmarks beside the peers", "",
             f"Made by `python tools/bench_peers.py` on {result['date']}: {result['machine']['cpu']}, {result['machine']['cores']} cores, "
             f"OpenCL: {result['machine']['gpu']}.", "",
             ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".", "",
             "Median latency in ms, batch 1, float32; engines run in turn within each round. `1T`, `2T`: threads. "
             "`coexec 2`: the default strategy, its plan checked by measurement (`--verify`), one core for NumPy and numba, one for the OpenCL "
             "driver.", "",
             "| Model | " + " | ".join(engines) + " |", "|---" * (len(engines) + 1) + "|"]
    for model, found in result["models"].items():
        lines.append(f"| {model} | " + " | ".join(f"{found[e]['p50_ms']:.2f}" if e in found else "-" for e in engines) + " |")
    lines += ["", "| Ratio (below 1: coexec is faster) | geometric mean | worst | worst model |", "|---|---|---|---|"]
    for title, c in result["comparisons"].items():
        worst = max(c["ratios"], key=c["ratios"].__getitem__)
        lines.append(f"| {title}: {c['ours']} / best of {', '.join(c['others'])} | {c['geomean']:.3f} | {c['worst']:.3f} | {worst} |")
    errors = [found[e]["error"] for found in result["models"].values() for e in found if e.startswith("coexec")]
    lines += ["", f"Largest error of coexec against ONNX Runtime over all models: {max(errors):.1e} of the output's largest magnitude.", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="made models or .onnx files; default: all thirteen")
    parser.add_argument("--models-dir", default="models", help="where made models are kept (made there if missing)")
    parser.add_argument("--engines", default=",".join(ENGINES), help="comma-separated: " + ", ".join(ENGINES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=25.0, help="seconds a model, about")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--markdown", metavar="FILE")
    options = parser.parse_args()
    engines = [e.strip() for e in options.engines.split(",")]
    unknown = [e for e in engines if e not in ENGINES]
    if unknown:
        parser.error(f"unknown engine {', '.join(unknown)}; known: {', '.join(ENGINES)}")
    result: dict = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions(), "models": {}}
    print(f"{'model':20} " + " ".join(f"{e:>14}" for e in engines), flush=True)
    for name in options.models or list(make_models.ARCHITECTURES):
        path = Path(name) if name.endswith(".onnx") else Path(options.models_dir) / f"{name}.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            onnx.save(make_models.make_model(name), path)
        found = result["models"][path.stem] = bench(str(path), engines, options.rounds, options.budget)
        print(f"{path.stem:20} " + " ".join(f"{found[e]['p50_ms']:14.2f}" if e in found else f"{'-':>14}" for e in engines), flush=True)
    result["comparisons"] = compare(result["models"])
    print()
    for title, c in result["comparisons"].items():
        print(f"{title:42} geometric mean {c['geomean']:.3f}  worst {c['worst']:.3f} ({max(c['ratios'], key=c['ratios'].__getitem__)})")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1))
    if options.markdown:
        Path(options.markdown).write_text(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

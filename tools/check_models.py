#!/usr/bin/env python3
"""Runs whole models under every strategy and compares each answer with a second opinion.

The thirteen architectures of make_models.py are compared with ONNX Runtime, the nine `light_*` models that the onnx package ships
with their shipped outputs, and model files given by name with ONNX Runtime on random input.

    python tools/check_models.py                          all of them, full size, every strategy
    python tools/check_models.py --scale tiny resnet18    one small model
    python tools/check_models.py --strategies cpu,gpu my-model.onnx
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent))
import make_models  # noqa: E402

import coexec  # noqa: E402
from coexec.api import random_feeds  # noqa: E402

STRATEGIES = ["cpu", "gpu", "flops", "greedy", "coexec", *(f"fixed:gpu={r / 10:g}" for r in range(11))]


def light_names() -> list[str]:
    """The light models of the onnx package."""
    return sorted(p.stem for p in _light_folder().glob("light_*.onnx"))


def _light_folder() -> Path:
    import onnx.backend.test

    return Path(onnx.backend.test.__file__).parent / "data" / "light"


def light_case(name: str) -> tuple[onnx.ModelProto, dict, list[np.ndarray]]:
    """A light model, the input that its shipped output belongs to (0, 1/n, 2/n ...), and that output."""
    model = onnx.load(_light_folder() / f"{name}.onnx")
    weights = {i.name for i in model.graph.initializer}
    feeds = {}
    for info in model.graph.input:
        if info.name not in weights:
            shape = tuple(d.dim_value if d.HasField("dim_value") else 1 for d in info.type.tensor_type.shape.dim)
            count = int(np.prod(shape))
            feeds[info.name] = (np.arange(count).reshape(shape) / count).astype(np.float32)
    outputs = []
    for i in range(len(model.graph.output)):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((_light_folder() / f"{name}_output_{i}.pb").read_bytes())
        outputs.append(onnx.numpy_helper.to_array(tensor))
    return model, feeds, outputs


def made_case(name: str, scale: str) -> tuple[onnx.ModelProto, dict, list[np.ndarray]]:
    """One of the made models, a seeded input, and ONNX Runtime's answer."""
    model = make_models.make_model(name, scale=scale) if scale == "tiny" else make_models.make_model(name)
    feeds = make_models.make_input(model)
    return model, feeds, by_onnxruntime(model.SerializeToString(), feeds)


def file_case(path: str) -> tuple[onnx.ModelProto, dict, list[np.ndarray]]:
    """A model file, random input, and ONNX Runtime's answer."""
    feeds = random_feeds(path)
    return path, feeds, by_onnxruntime(path, feeds)


def by_onnxruntime(model: bytes | str, feeds: dict) -> list[np.ndarray]:
    """ONNX Runtime's outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def error_of(found: list[np.ndarray], reference: list[np.ndarray]) -> float:
    """The largest absolute error over all outputs, each relative to its reference's largest magnitude."""
    worst = 0.0
    for a, b in zip(found, reference, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        peak = float(np.abs(b).max()) or 1.0
        worst = max(worst, float(np.abs(a.astype(np.float64) - b).max()) / peak)
    return worst if worst == worst else float("inf")


def check(names: list[str], scale: str, strategies: list[str], check_nodes: bool) -> Iterator[dict]:
    """A row per model and strategy."""
    for name in names:
        case = light_case(name) if name.startswith("light_") else made_case(name, scale) if name in make_models.ARCHITECTURES else file_case(name)
        model, feeds, reference = case
        graph = coexec.load(model)
        for strategy in strategies:
            started = time.perf_counter()
            with coexec.InferenceSession(graph, coexec.SessionOptions(check=check_nodes), strategy=strategy) as session:
                created = time.perf_counter()
                first = error_of(session.run(None, feeds), reference)
                again = error_of(session.run(None, feeds), reference)
                ended = time.perf_counter()
                moved = sum(1 for p in session.plan.partitions if p.note.startswith(("fallback", "gpu:")))
                gpu = np.mean([p.ratio.get("gpu", 0.0) for p in session.plan.partitions if not p.note.startswith("view")] or [0.0])
            yield {"model": name, "strategy": strategy, "max_error": max(first, again), "create_s": created - started,
                   "two_runs_s": ended - created, "not_on_gpu": moved, "gpu_share": float(gpu)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names of made or light models, or .onnx files; default: all made and light ones")
    parser.add_argument("--scale", choices=["full", "tiny"], default="full", help="size of the made models")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="comma-separated")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="allowed error, relative to the output's largest magnitude")
    parser.add_argument("--check-nodes", action="store_true", help="also compare every node with the unsplit reference (slow)")
    parser.add_argument("--json", metavar="FILE", help="write every row there")
    options = parser.parse_args()
    names = options.models or [*make_models.ARCHITECTURES, *light_names()]
    rows, bad = [], 0
    print(f"{'model':28} {'strategy':16} {'max error':>10}  {'gpu share':>9}  {'create s':>8}  {'2 runs s':>8}")
    for row in check(names, options.scale, options.strategies.split(","), options.check_nodes):
        ok = row["max_error"] <= options.tolerance
        bad += not ok
        rows.append({**row, "ok": ok})
        print(f"{row['model']:28} {row['strategy']:16} {row['max_error']:10.1e}  {row['gpu_share']:9.2f}  {row['create_s']:8.2f}  "
              f"{row['two_runs_s']:8.2f}  {'ok' if ok else 'WRONG'}", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps({"tolerance": options.tolerance, "rows": rows}, indent=1))
    print(f"{len(rows) - bad} of {len(rows)} within {options.tolerance:g} of the output's largest magnitude")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""Outputs of a run: what is said about them, and the .npz or .npy file they go to."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..errors import InputError, UsageError
from .console import milliseconds, table

TOP = 5


def describe(value: Any, labels: Sequence[str] = (), top: int = TOP) -> dict[str, Any]:
    """Shape, type, min, mean, max and NaN count of an output; with [1, N] scores also the `top` best classes."""
    if not isinstance(value, np.ndarray):
        return {"type": type(value).__name__, "count": len(value) if isinstance(value, (list, tuple)) else None}
    facts: dict[str, Any] = {"shape": list(value.shape), "dtype": str(value.dtype)}
    if value.dtype.kind not in "fiub" or not value.size:
        return facts
    numbers = value.astype(np.float64)
    facts["nan"] = int(np.isnan(numbers).sum())
    known = numbers[~np.isnan(numbers)]
    if known.size:
        facts |= {"min": float(known.min()), "mean": float(known.mean()), "max": float(known.max())}
    if value.ndim == 2 and value.shape[0] == 1 and value.shape[1] > 1 and value.dtype.kind == "f" and not facts["nan"]:
        if labels and len(labels) < value.shape[1]:
            raise InputError("there are fewer labels than classes", found=f"{len(labels)} labels", expected=f"{value.shape[1]}, one a line")
        best = np.argsort(-numbers[0], kind="stable")[:top]
        facts["top"] = [{"index": int(i), "label": labels[i] if labels else None, "value": float(numbers[0, i])} for i in best]
    return facts


def lines(name: str, facts: Mapping[str, Any]) -> list[str]:
    """The description as text."""
    if "shape" not in facts:
        return [f"{name}: {facts['type']}" + (f" of {facts['count']}" if facts.get("count") is not None else "")]
    text = f"{name}: {facts['dtype']} [{', '.join(map(str, facts['shape']))}]"
    if "min" in facts:
        text += f"  min {facts['min']:.6g}  mean {facts['mean']:.6g}  max {facts['max']:.6g}"
    if facts.get("nan"):
        text += f"  {facts['nan']} NaN"
    width = max((len(str(row["label"] or row["index"])) for row in facts.get("top", [])), default=0)
    return [text] + [
        f"  {place}. class {str(row['label'] or row['index']):{width}}  {row['value']:.6g}"
        for place, row in enumerate(facts.get("top", []), 1)
    ]


def trace_lines(facts: Mapping[str, Any]) -> list[str]:
    """The summary of a trace (runtime.trace.summary) as text: shares of the run's time, then the slowest pieces."""
    if not facts:
        return []
    share = lambda part: f"{100 * part:.0f} %"  # noqa: E731
    busy = ", ".join(f"{track} busy {share(part)}" for track, part in facts["busy"].items())
    waiting = facts["waiting_ms"] / facts["run_ms"] if facts["run_ms"] else 0.0
    head = f"{facts['runs']} traced run(s) of {milliseconds(facts['run_ms'])} ms: {busy}, waiting {share(waiting)}"
    rows = [
        (row["name"], row["op_type"], row["device"], f"{row['us']:.1f}", share(row["us"] / 1e3 / facts["run_ms"]),
         "-" if row["predicted_us"] is None else f"{row['predicted_us']:.1f}", row["implementation"])
        for row in facts["slowest"]
    ]  # fmt: skip
    header = "slowest pieces", "operator", "on", "us", "of run", "node predicted us", "kernel"
    return [head, *table(rows, header, "lllrrrl").splitlines()]


def check_name(path: Path | None) -> None:
    """Raises UsageError unless the file's name says a format that can be written."""
    if path is not None and path.suffix not in (".npz", ".npy"):
        raise UsageError(
            "outputs go to .npz, or one output to .npy", where="-o", found=f"'{path}'", hint=f"write {path.with_suffix('.npz')}"
        )


def save(path: Path, results: Mapping[str, Any]) -> None:
    """Writes the outputs, whole or not at all; a list becomes NAME.0, NAME.1, ... Raises UsageError where .npy cannot hold them."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in results.items():
        if isinstance(value, (list, tuple)):
            arrays |= {f"{name}.{i}": np.asarray(v) for i, v in enumerate(value)}
        elif value is not None:
            arrays[name] = np.asarray(value)
    arrays = {k: v.astype(str) if v.dtype == object else v for k, v in arrays.items()}
    if path.suffix == ".npy" and len(arrays) != 1:
        raise UsageError(
            "an .npy file holds one array", where="-o", found=f"{len(arrays)} outputs", hint=f"write {path.with_suffix('.npz')}"
        )
    with files.written(path, "wb") as file:
        if path.suffix == ".npy":
            np.lib.format.write_array(file, next(iter(arrays.values())), allow_pickle=False)
            return
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

"""The tuner: which tiles suit one operator shape on one device, found by measuring and kept on disk.

A file per device, driver and kernel source: <cache>/tuning/<hash>.json, {"format", "device", "driver", "kernels", "entries"}, an entry
being the fields of `Tiles` that differ from the device's defaults and the microseconds they took. Compiling looks a piece up and
measures nothing; whatever does not check out is ignored, as if it had never been tuned, and overwritten by the next `tune`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import files, settings
from ...errors import DeviceError
from ...graph.ir import Graph, Node, Value
from ...ops import op_for
from ...partition.plan import Plan, pieces
from ...regions import Region
from ..base import Buffer, DeviceFacts, TensorView
from .tiles import LIMITS, METHODS, Tiles, tiles_for

if TYPE_CHECKING:
    from .device import OpenCLDevice

log = logging.getLogger(__name__)

FORMAT = 1
#: The operators whose kernels have numbers to tune.
TUNABLE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "MaxPool", "AveragePool"})

_tables: dict[Path, dict[str, dict[str, Any]]] = {}
_lock = threading.RLock()
_trial: ContextVar[Tiles | None] = ContextVar("trial", default=None)


@contextmanager
def trial(tiles: Tiles) -> Iterator[None]:
    """Everything compiled inside takes these tiles, whatever was tuned."""
    token = _trial.set(tiles)
    try:
        yield
    finally:
        _trial.reset(token)


def tiles_of(facts: DeviceFacts, node: Node, region: Region) -> Tiles:
    """The tiles that a piece is compiled with: those on trial, the tuned ones, or the device's defaults. Never measures."""
    given, defaults = _trial.get(), tiles_for(facts)
    if given is not None:
        return given
    entry = _load(path_of(facts), facts).get(shape_key(node, region))
    return defaults if entry is None else replace(defaults, **entry["tiles"])


def is_tuned(facts: DeviceFacts, node: Node, region: Region) -> bool:
    """True where a sound entry for that piece is there."""
    return shape_key(node, region) in _load(path_of(facts), facts)


def shape_key(node: Node, region: Region) -> str:
    """What a tuned entry is found by: the operator, the shapes of what the piece reads and writes, its attributes and fused tail."""
    read = ["-" if r is None else f"{v.dtype}[{','.join(map(str, r.shape))}]{'c' if v.is_constant else ''}"
            for v, r in zip(node.inputs, op_for(node).regions_read(node, region)) if v is not None]
    attributes = [f"{k}={v}" for k, v in sorted(node.attributes.items()) if k != "method" and isinstance(v, (int, float, str, list, tuple))]
    tail = [node.activation.kind if node.activation else "", "residual" if node.residual else ""]
    shape = ",".join(map(str, region.shape))
    return " ".join([node.op_type, *read, f"-> [{shape}]", *attributes, *filter(None, tail)])


@lru_cache(maxsize=1)
def kernels_digest() -> str:
    """A hash over the text of every kernel file: another source is another machine to tune."""
    folder = resources.files(__package__) / "kernels"
    files = sorted((f for f in folder.iterdir() if f.name.endswith((".cl", ".clh"))), key=lambda f: f.name)
    return hashlib.sha256(b"\0".join(f.name.encode() + b"\0" + f.read_bytes() for f in files)).hexdigest()[:16]


def _header(facts: DeviceFacts) -> dict[str, Any]:
    return {"format": FORMAT, "device": facts.name, "driver": facts.driver, "compute_units": facts.compute_units,
            "kernels": kernels_digest()}


def path_of(facts: DeviceFacts) -> Path:
    """The file of that device, driver and kernel source."""
    digest = hashlib.sha256(json.dumps(_header(facts), sort_keys=True).encode()).hexdigest()[:32]
    return settings.get("cache_dir") / "tuning" / f"{digest}.json"


def forget() -> None:
    """Empties the process's own copy of the tables (not the disk's)."""
    with _lock:
        _tables.clear()


def _load(path: Path, facts: DeviceFacts) -> dict[str, dict[str, Any]]:
    with _lock:
        if path not in _tables:
            _tables[path] = _read(path, facts)
        return _tables[path]


def _read(path: Path, facts: DeviceFacts) -> dict[str, dict[str, Any]]:
    """The sound entries of a file; none where it is missing, unreadable, or about something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        log.info("tuning results in %s are unreadable (%s): ignored", path, error)
        return {}
    if not isinstance(content, dict) or any(content.get(k) != v for k, v in _header(facts).items()):
        log.info("tuning results in %s are of another format, device, driver or kernel source: ignored", path)
        return {}
    entries = content.get("entries")
    return {k: e for k, e in entries.items() if _is_sound(e, facts)} if isinstance(entries, dict) else {}


def _is_sound(entry: Any, facts: DeviceFacts) -> bool:
    """True for an entry whose numbers are known, in range, and possible on the device."""
    tiles = entry.get("tiles") if isinstance(entry, dict) else None
    if not isinstance(tiles, dict) or not isinstance(entry.get("us"), (int, float)):
        return False
    for name, value in tiles.items():
        if name == "method":
            if value not in METHODS:
                return False
        elif name not in LIMITS or type(value) is not int or not LIMITS[name][0] <= value <= LIMITS[name][1]:
            return False
    return replace(tiles_for(facts), **tiles).fits(facts)


def _store(facts: DeviceFacts, key: str, entry: dict[str, Any]) -> None:
    """Adds an entry to what the file holds by now, and replaces the file in one step."""
    path = path_of(facts)
    with _lock:
        _tables[path] = {**_load(path, facts), **_read(path, facts), key: entry}
        content = json.dumps({**_header(facts), "entries": _tables[path]}, indent=1, sort_keys=True)
        try:
            files.keep(path, content)
        except OSError as error:
            _warn_once(str(path.parent), str(error))


@cache
def _warn_once(folder: str, why: str) -> None:
    log.warning("tuning results cannot be kept in %s (%s): they hold for this process only", folder, why)


# Candidates


def stages(facts: DeviceFacts, node: Node, region: Region) -> tuple[tuple[dict[str, Any], ...], ...]:
    """What is tried, one group of numbers after the other, each on top of the best so far."""
    if node.op_type not in TUNABLE or node.output.dtype != np.float32:
        return ()
    panels = tiles_for(facts).panels
    if node.op_type in ("MaxPool", "AveragePool"):
        return (_STRIPS,) if panels else ()
    depthwise = node.op_type == "Conv" and node.inputs[1].shape[1] == 1 and node.attr("group", 1) > 1
    if depthwise:
        return (_STRIPS,) if panels else (_ITEMS,)
    if panels:
        methods = ({"method": "panel"}, {"method": "winograd"}) if node.op_type == "Conv" else ()
        shapes = tuple({"rows": r, "vectors": v} for r, v in Tiles(**_vector(facts)).tile_shapes() if r > 1 or region.shape[1] == 1)
        return tuple(filter(None, (methods, shapes, _BLOCKS if node.op_type != "MatMul" else ())))
    return (_TILED, ({"fma": 0}, {"fma": 1}))


def _vector(facts: DeviceFacts) -> dict[str, int]:
    tiles = tiles_for(facts)
    return {"width": tiles.width, "registers": tiles.registers}


_STRIPS = tuple({"strip_bytes": n << 10} for n in (8, 16, 40))
_ITEMS = tuple({"item_width": n} for n in (1, 2, 8))
_BLOCKS = tuple({"panel_bytes": n << 10} for n in (64, 384))
_TILED = tuple(dict(zip(("block_rows", "block_columns", "block_depth", "item_rows", "item_columns"), n)) for n in (
    (32, 32, 16, 4, 4), (64, 64, 16, 8, 8), (64, 64, 16, 4, 4), (64, 64, 8, 8, 4), (128, 64, 8, 8, 8), (32, 64, 16, 4, 8),
    (16, 64, 16, 4, 4), (32, 32, 8, 2, 2)))


# Measuring


@dataclass
class _Bench:
    """One piece with memory of its own: how long a run takes with given tiles, in microseconds."""

    device: OpenCLDevice
    node: Node
    region: Region

    def __post_init__(self) -> None:
        self.buffers: list[Buffer] = []
        rng = np.random.default_rng(0)
        self.inputs = [v if v is None or v.is_constant else self._view(v, rng) for v in self.node.inputs]
        self.outputs = [None if v is None else self._view(v, None) for v in self.node.outputs]

    def _view(self, value: Value, rng: np.random.Generator | None) -> TensorView:
        buffer = self.device.allocate(max(1, value.type.nbytes))
        self.buffers.append(buffer)
        view = TensorView.contiguous(buffer, value.dtype, Region.whole(value.shape))
        if rng is not None and value.dtype.kind == "f":  # small and positive: no denormals, whose arithmetic takes another time
            view.array[...] = rng.random(value.shape, np.float32) + np.float32(0.01)
        return view

    def time(self, tiles: Tiles, seconds: float, best: float = float("inf")) -> float:
        """The least of several runs of several launches; gives up early where it is clearly worse than `best`."""
        queue = self.device.queue()
        try:
            with trial(tiles):
                kernel = queue.compile(self.node, self.region, self.inputs, self.outputs)
            queue.seal()
            for view in self.inputs:
                if isinstance(view, TensorView):
                    queue.upload(view).wait()
            kernel.start()
            queue.finish()
            found, launches, end = float("inf"), 1, time.perf_counter() + seconds
            while True:
                begun = time.perf_counter()
                for _ in range(launches):
                    kernel.start()
                queue.finish()
                now = time.perf_counter()
                found = min(found, (now - begun) * 1e6 / launches)
                if now >= end or found > 2 * best:
                    return found
                launches = max(1, min(20, int(1000 / max(found, 1))))  # about a millisecond between two waits
        finally:
            queue.close()

    def close(self) -> None:
        for buffer in self.buffers:
            buffer.close()


def tune(device: OpenCLDevice, node: Node, region: Region | None = None, seconds: float = 0.03) -> Tiles:
    """Measures a few candidates for the piece (default: the whole node) and keeps the best; returns its tiles.

    Each candidate takes `seconds` of measuring besides its compilation. Raises DeviceError where the device has no such kernel.
    """
    region = Region.whole(node.output.shape) if region is None else region
    facts = device.facts
    defaults = best_tiles = tiles_for(facts)
    groups = stages(facts, node, region)
    if not groups or not region.size:
        return defaults
    bench = _Bench(device, node, region)
    try:
        best = reference = bench.time(defaults, seconds)
        for group in groups:
            base = best_tiles
            for change in group:
                candidate = replace(base, **change)
                if candidate == base or not candidate.fits(facts):
                    continue
                try:
                    found = bench.time(candidate, seconds, best)
                except DeviceError as error:  # a driver that refuses one form has others
                    log.info("%s is not possible for %s: %s", change, node.name, error)
                    continue
                if found < 0.97 * best:  # less is noise
                    best, best_tiles = found, candidate
    finally:
        bench.close()
    changed = {k: v for k, v in asdict(best_tiles).items() if v != getattr(defaults, k)}
    log.info("tuned %s '%s': %.0f us -> %.0f us with %s", node.op_type, node.name, reference, best, changed or "the defaults")
    _store(facts, shape_key(node, region), {"tiles": changed, "us": round(best, 2)})
    return best_tiles


def tune_graph(device: OpenCLDevice, graph: Graph, plan: Plan, budget_s: float = 60.0,
               progress: Callable[[int, int, str], None] | None = None) -> int:
    """Tunes every piece that the plan gives this device and that has no entry yet, the most work first; returns how many.

    Begins no piece once `budget_s` seconds are over. `progress(done, of, name)` is called before each piece and once at the end.
    """
    end = time.perf_counter() + budget_s
    wanted = list(untuned(device, graph, plan))
    done = 0
    for node, region in wanted:
        if time.perf_counter() >= end:
            break
        if progress:
            progress(done, len(wanted), node.name)
        tune(device, node, region)
        done += 1
    if progress:
        progress(done, len(wanted), "")
    return done


def untuned(device: OpenCLDevice, graph: Graph, plan: Plan) -> Sequence[tuple[Node, Region]]:
    """The pieces of the plan on this device that tuning could make faster and that have no entry, each shape once, most work first."""
    found: dict[str, tuple[float, Node, Region]] = {}
    for node in graph.nodes:
        if not node.is_static or device.declines(node):
            continue
        for name, region in pieces(node, plan[node.name]):
            if name == device.name and stages(device.facts, node, region) and not is_tuned(device.facts, node, region):
                found.setdefault(shape_key(node, region), (op_for(node).work(node, region).flops, node, region))
    return [(node, region) for _, node, region in sorted(found.values(), key=lambda row: -row[0])]

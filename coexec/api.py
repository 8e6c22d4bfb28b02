"""The verbs as functions, and InferenceSession: what `import coexec` offers and what the command line calls."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import settings
from .devices.base import Device
from .devices.registry import find_devices, session_threads
from .errors import CoexecError, FallbackForbidden, InputError, UsageError, suggest
from .graph.ir import Graph, Value
from .graph.onnx_import import load_model
from .graph.passes import deciding_inputs, prepare
from .partition.plan import Plan, on_one_device
from .partition.strategies.base import parse_strategy
from .profiles import DeviceProfile, load_profile
from .runtime.check import NodeError, difference, run_checked
from .runtime.executor import PreparedRun
from .runtime.feeds import check_feeds

Shapes = Mapping[str, Sequence[int]]

#: Prepared input shapes that one session keeps; the least recently used goes first.
KEPT_SHAPES = 4
#: A session specialises itself on the values of inputs that decide shapes until it has seen this many; then they stay dynamic.
SPECIALISED_VALUES = 16


@dataclass
class SessionOptions:
    """How a session runs. `intra_op_num_threads` 0: every core less those of an emulated GPU.

    strict: fail where a node cannot run where the plan puts it, instead of moving it to the CPU.
    check: compare every node with the unsplit reference, in every run.
    force: node name -> device, against the strategy's choice.
    shapes: input name -> shape, for models with symbolic dimensions; else the first run decides.
    gpu: the OpenCL device, PLATFORM:DEVICE, or `none`.
    """

    intra_op_num_threads: int = 0
    strict: bool = False
    check: bool = False
    force: Mapping[str, str] = field(default_factory=dict)
    shapes: Shapes = field(default_factory=dict)
    gpu: str = ""


@dataclass(frozen=True)
class NodeArg:
    """An input or output as ONNX Runtime shows it: `shape` holds names or None where a dimension is open, `type` like `tensor(float)`."""

    name: str
    shape: list[int | str | None] | None
    type: str


_ONNX_NAMES = {"float32": "float", "float64": "double", "object": "string"}


def _argument(value: Value) -> NodeArg:
    dtype = value.type.dtype
    kind = "opaque" if dtype is None else f"tensor({_ONNX_NAMES.get(dtype.name, dtype.name)})"
    return NodeArg(value.name, None if value.type.shape is None else list(value.type.shape), kind)


def load(source: Any) -> Graph:
    """The graph of an ONNX model (path, bytes or ModelProto), dimensions still symbolic. Raises InvalidModel, UnsupportedOps."""
    return source if isinstance(source, Graph) else load_model(source)


def bind(graph: Graph, shapes: Shapes | None = None, values: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The simplified graph for those input shapes, and for those values of inputs that decide shapes.

    Raises ModelError where they contradict the model.
    """
    known = {v.name for v in graph.inputs}
    for name in shapes or {}:
        if name not in known:
            raise InputError(f"the model has no input '{name}'", hint=suggest(name, known))
    return prepare(graph, {k: tuple(int(d) for d in s) for k, s in (shapes or {}).items()}, values=values)


def default_shapes(graph: Graph, shapes: Shapes | None = None) -> dict[str, tuple[int, ...]]:
    """Every input's shape, with 1 where a dimension is open and `shapes` does not name it."""
    shapes = shapes or {}
    sizes = {d: n for v in graph.inputs for d, n in zip(v.type.shape or (), shapes.get(v.name, ())) if isinstance(d, str)}
    found = {}
    for value in graph.inputs:
        if value.type.shape is not None:
            given = shapes.get(value.name)
            found[value.name] = tuple(given) if given is not None else tuple(d if isinstance(d, int) else sizes.get(d, 1) for d in value.type.shape)
    return found


def random_feeds(source: Any, shapes: Shapes | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """A seeded feed for every input: normal floats, small whole numbers, ones for masks."""
    graph, rng = load(source), np.random.default_rng(seed)
    feeds = {}
    for name, shape in default_shapes(graph, shapes).items():
        value = next(v for v in graph.inputs if v.name == name)
        dtype = value.type.dtype
        if dtype is None or dtype == object:
            raise InputError("cannot make a random input of this type", where=f"input '{name}'", found=str(value.type), hint="give it as a file")
        if dtype == bool or "mask" in name.lower():
            feeds[name] = np.ones(shape, dtype)
        elif dtype.kind in "iu":
            feeds[name] = rng.integers(0, 100, shape).astype(dtype)
        else:
            feeds[name] = rng.standard_normal(shape).astype(dtype)
    return feeds


def _resolve_profile(profile: DeviceProfile | str | None) -> DeviceProfile | None:
    return profile if profile is None or isinstance(profile, DeviceProfile) else load_profile(profile)


def plan(source: Any, *, profile: DeviceProfile | str | None = None, strategy: str = "coexec", shapes: Shapes | None = None,
         force: Mapping[str, str] | None = None, devices: Mapping[str, Device] | None = None) -> Plan:
    """A plan for a model. Without a profile, this machine's is used (made quickly if there is none); with one, no device is touched.

    Raises ModelError, ProfileMismatch, NoDevice (strategy `gpu` without a GPU), UsageError.
    """
    graph = load(source)
    return plan_prepared(bind(graph, default_shapes(graph, shapes)), profile=profile, strategy=strategy, force=force, devices=devices)


def plan_prepared(graph: Graph, *, profile: DeviceProfile | str | None = None, strategy: str = "coexec",
                  force: Mapping[str, str] | None = None, devices: Mapping[str, Device] | None = None) -> Plan:
    """`plan` for a graph that `bind` has prepared already."""
    partitioner = parse_strategy(strategy)
    found = _resolve_profile(profile)
    if found is None and devices is None:
        devices = find_devices(need_gpu=_needs_gpu(partitioner))
    if found is None and _needs_profile(partitioner):
        found = cached_profile(devices=devices)
    gpu = (devices or {}).get("gpu")
    supports = None if devices is None or not partitioner.uses_gpu else (gpu.declines if gpu is not None else lambda node: "there is no GPU")
    started = time.perf_counter()
    made = partitioner.plan(graph, found, supports)
    made = _forced(graph, made, force or {}, supports)
    return replace(made, planning_ms=(time.perf_counter() - started) * 1e3, shapes={v.name: v.shape for v in graph.inputs if v.type.is_static})


def _needs_profile(partitioner: Any) -> bool:
    return partitioner.needs_profile


def _needs_gpu(partitioner: Any) -> bool:
    return partitioner.needs_gpu


def _forced(graph: Graph, made: Plan, force: Mapping[str, str], supports: Callable | None) -> Plan:
    names = {n.name for n in graph.nodes}
    changed = {}
    for name, device in force.items():
        if name not in names:
            raise UsageError(f"cannot force node '{name}': the prepared model has none such", hint=suggest(name, names))
        if device not in ("cpu", "gpu"):
            raise UsageError(f"cannot force node '{name}'", found=repr(device), expected="cpu or gpu")
        reason = supports(graph.node(name)) if device == "gpu" and supports is not None else None
        if reason:
            raise UsageError(f"cannot force node '{name}' to the gpu", found=reason)
        changed[name] = on_one_device(graph.node(name), device, note="forced")
    if not changed:
        return made
    return replace(made, partitions=tuple(changed.get(p.name, p) for p in made.partitions))


#: Seconds that measuring takes by default, quick and full.
QUICK_S, FULL_S = 45.0, 1140.0


def profile_device(*, quick: bool = True, time_budget_s: float | None = None, threads: int = 0, gpu: str = "",
                   progress: Callable | None = None, table: Any = None, resume: bool = False) -> tuple[DeviceProfile, list]:
    """Measures this machine. Returns the profile and the raw measurements. Raises NoDevice where `gpu` names none.

    Every row is appended to the CSV file `table` as it is measured; with `resume`, after the rows that are there already.
    """
    from .profiling.run import profile_devices

    devices = find_devices(gpu)
    budget = time_budget_s if time_budget_s is not None else (QUICK_S if quick else FULL_S)
    return profile_devices(devices["cpu"], devices.get("gpu"), time_budget_s=budget, threads=session_threads(devices, threads),
                           progress=progress, table=table, resume=resume)


def cached_profile(progress: Callable | None = None, devices: Mapping[str, Device] | None = None) -> DeviceProfile:
    """This machine's profile from the cache; measured quickly, and kept, where there is none that fits."""
    from .profiles import default_profile_path, save_profile

    devices = devices or find_devices()
    path = default_profile_path({name: device.facts for name, device in devices.items()})
    if path.exists():
        try:
            return load_profile(path)
        except CoexecError:
            pass  # written by another version, or damaged: measured anew below
    from .profiling.run import profile_devices

    made, _ = profile_devices(devices["cpu"], devices.get("gpu"), time_budget_s=QUICK_S, threads=session_threads(dict(devices)), progress=progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_profile(made, path)
    except OSError:
        import logging

        logging.getLogger("coexec").warning("[%s] the profile cannot be kept in the cache; set COEXEC_CACHE_DIR to a writable folder", path)
    return made


class InferenceSession:
    """A model prepared to run; the interface of onnxruntime.InferenceSession.

    source: path, bytes, onnx.ModelProto or Graph. device_profile: a DeviceProfile or its path; default: this machine's.
    strategy: `cpu`, `gpu`, `fixed:gpu=0.5`, `flops`, `coexec` ...; plan: a Plan (or its path) to replay instead.
    One thread at a time runs a session; others wait their turn. Raises ModelError, NoDevice, PlanMismatch, UsageError.
    """

    def __init__(self, source: Any, sess_options: SessionOptions | None = None, *, device_profile: DeviceProfile | str | None = None,
                 strategy: str = "coexec", plan: Plan | str | None = None):
        self.options = sess_options or SessionOptions()
        self.strategy = strategy
        self._model = load(source)
        self._given_plan = Plan.load(plan) if plan is not None and not isinstance(plan, Plan) else plan
        self._partitioner = None if self._given_plan is not None else parse_strategy(strategy)
        self._profile = _resolve_profile(device_profile)
        self._lock = threading.RLock()
        self._prepared: OrderedDict[tuple, PreparedRun] = OrderedDict()
        self._current: PreparedRun | None = None
        self._closed = False
        need_gpu = "gpu" in self._given_plan.devices if self._given_plan is not None else _needs_gpu(self._partitioner)
        only_cpu = self._partitioner is not None and not self._partitioner.uses_gpu
        self.devices = find_devices("none" if only_cpu and not self.options.force else self.options.gpu, need_gpu)
        bound = bind(self._model, {**self._open_shapes(), **self.options.shapes})
        self._deciding = deciding_inputs(bound)
        self._values_seen = 0
        if not self._deciding and all(v.type.is_static or v.type.dtype is None or v.type.dtype == object for v in bound.inputs):
            self._prepare(bound, self._key({v.name: v.type.shape for v in bound.inputs}, {}))

    def _open_shapes(self) -> Shapes:
        """A given plan's shapes, for the inputs that the model leaves open."""
        given = self._given_plan.shapes if self._given_plan is not None else {}
        return {v.name: given[v.name] for v in self._model.inputs if v.name in given and not v.type.is_static}

    @staticmethod
    def _key(shapes: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> tuple:
        return tuple(shapes.values()), tuple((n, a.tobytes()) for n, a in values.items())

    def _prepare(self, graph: Graph, key: tuple) -> PreparedRun:
        if self._given_plan is not None:
            made = self._given_plan
        else:
            made = self._planned(graph)
        fallen = [(p.name, p.note) for p in made.partitions if p.note.startswith(("fallback:", "gpu:"))]
        if self.options.strict and fallen:
            raise FallbackForbidden(fallen, where=graph.name)
        threads = session_threads(self.devices, self.options.intra_op_num_threads, "gpu" in made.devices)
        prepared = PreparedRun(graph, made, self.devices, threads, self.options.strict)
        self._prepared[key] = self._current = prepared
        while len(self._prepared) > KEPT_SHAPES:
            self._prepared.popitem(last=False)[1].close()
        return prepared

    def _planned(self, graph: Graph) -> Plan:
        partitioner = self._partitioner
        if self._profile is None and partitioner.needs_profile:
            self._profile = cached_profile(devices=self.devices)
        return plan_prepared(graph, profile=self._profile, strategy=self.strategy, force=self.options.force, devices=self.devices)

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None) -> list[Any]:
        """The outputs, all or those named, for a dict of arrays. Raises InputError, UsageError, DeviceError, NumericMismatch."""
        names = [v.name for v in self._model.outputs] if output_names is None else list(output_names)
        for name in names:
            if all(name != v.name for v in self._model.outputs):
                raise UsageError(f"the model has no output '{name}'", hint=suggest(name, [v.name for v in self._model.outputs]))
        feeds = check_feeds(self._model.inputs, input_feed)
        with self._lock:
            if self._closed:
                raise UsageError("the session is closed", hint="make a new one")
            prepared = self._for(feeds)
            checked = self.options.check or settings.get("check")
            results = run_checked(prepared, feeds) if checked else prepared.run(feeds)
        return [results[n] for n in names]

    def _for(self, feeds: Mapping[str, Any]) -> PreparedRun:
        current = self._current
        if current is not None and not self._deciding and all(
                v.type.shape is None or v.type.shape == np.shape(feeds[v.name]) for v in current.graph.inputs):
            return current
        shapes = {v.name: None if v.type.dtype is None else np.shape(feeds[v.name]) for v in self._model.inputs}
        values = {n: feeds[n] for n in self._deciding}
        key = self._key(shapes, values)
        if key in self._prepared:
            self._prepared.move_to_end(key)
            self._current = self._prepared[key]
            return self._current
        if values:
            self._values_seen += 1
            if self._values_seen > SPECIALISED_VALUES:
                self._deciding, values = (), {}
                key = self._key(shapes, values)
        return self._prepare(bind(self._model, {k: s for k, s in shapes.items() if s is not None}, values), key)

    def run_checked(self, input_feed: Mapping[str, Any], rtol: float = 1e-3, atol: float = 1e-5, stop: bool = True,
                    report: Callable[[NodeError], None] | None = None) -> dict[str, Any]:
        """Outputs by name, every node compared with the unsplit reference on the way. Raises NumericMismatch where `stop`."""
        feeds = check_feeds(self._model.inputs, input_feed)
        with self._lock:
            return run_checked(self._for(feeds), feeds, rtol, atol, stop, report)

    def get_inputs(self) -> list[NodeArg]:
        """The model's inputs: name, shape, type."""
        return [_argument(v) for v in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The model's outputs: name, shape (as far as known), type."""
        typed = self._current.graph.outputs if self._current is not None else self._model.outputs
        return [_argument(v) for v in typed]

    @property
    def _ready(self) -> PreparedRun:
        if self._current is None:
            raise UsageError("the session is not prepared yet: the model has open dimensions", found=[str(v) for v in self._model.inputs],
                             hint="run it once, or give SessionOptions.shapes")
        return self._current

    @property
    def plan(self) -> Plan:
        """The plan that runs. Raises UsageError before the first run of a model with open dimensions."""
        return self._ready.plan

    @property
    def graph(self) -> Graph:
        """The prepared graph: types inferred, constants folded, operators fused."""
        return self._ready.graph

    @property
    def profile(self) -> DeviceProfile | None:
        """The profile the plan was made from; None where the strategy needs none."""
        return self._profile

    @property
    def threads(self) -> int:
        """CPU threads in use."""
        return self._ready.threads

    @property
    def peak_memory_bytes(self) -> int:
        """Bytes of activation memory, planned for all values together."""
        return self._ready.memory.nbytes

    def close(self) -> None:
        """Frees kernels and memory; a closed session cannot run."""
        with self._lock:
            self._closed = True
            for prepared in self._prepared.values():
                prepared.close()
            self._prepared.clear()
            self._current = None

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def validate(source: Any, *, strategy: str = "coexec", profile: DeviceProfile | str | None = None, feeds: Mapping[str, Any] | None = None,
             shapes: Shapes | None = None, rtol: float = 1e-3, atol: float = 1e-5, per_op: bool = False,
             options: SessionOptions | None = None, plan: Plan | str | None = None) -> dict[str, Any]:
    """Compares a co-executed run with the unsplit reference: of the whole model, and with `per_op` of every node from its own inputs.

    Returns {"ok", "max_abs_error", "max_rel_error", "nodes": [...]}; relative errors are of the reference's largest magnitude.
    """
    from .ops.evaluate import evaluate

    graph = load(source)
    feeds = feeds or random_feeds(graph, shapes)
    chosen = options or SessionOptions()
    chosen = replace(chosen, shapes={k: np.shape(v) for k, v in feeds.items()})
    nodes: list[NodeError] = []
    with InferenceSession(graph, chosen, device_profile=profile, strategy=strategy, plan=plan) as session:
        if per_op:
            found = session.run_checked(feeds, rtol, atol, stop=False, report=nodes.append)
        else:
            found = dict(zip((v.name for v in graph.outputs), session.run(None, feeds)))
        plain = prepare(graph, {k: np.shape(v) for k, v in feeds.items()}, passes=prepare_unfused())
    reference = evaluate(plain, feeds)
    gaps = [difference(np.asarray(found[v.name]), np.asarray(reference[v.name]), rtol, atol) for v in graph.outputs]
    return {
        "ok": all(g[2] for g in gaps) and all(n.ok for n in nodes),
        "max_abs_error": max((g[0] for g in gaps), default=0.0),
        "max_rel_error": max((g[1] for g in gaps), default=0.0),
        "nodes": [n.__dict__ for n in nodes],
    }


def prepare_unfused() -> tuple:
    """The passes of a reference: types and constants, no fusion."""
    from .graph.passes import drop_dead_code, infer_and_fold

    return (infer_and_fold, drop_dead_code)

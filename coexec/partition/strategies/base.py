"""Partitioner, what all strategies share: options, names, which nodes are theirs to place, and the finished plan."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, TypeVar

from ...collecting import uncollected
from ...cost.compose import CostModel
from ...cost.corrections import Corrections
from ...errors import UsageError, suggest
from ...graph.ir import Graph, Node
from ...ops import op_for
from ...ops.base import SplitAxis, axes_of
from ...ops.fallback import is_fallback
from ...profiles import DeviceProfile
from ..chains import access, chains
from ..halos import keep_halos
from ..joins import joined
from ..plan import Partition, Plan, cut, on_one_device
from ..wishes import NONE, OBJECTIVES, Wishes

#: How long plans of one graph take on one board, in microseconds.
Judge = Callable[[Plan], float]
#: Makes the judge of a graph's plans on the board of those costs (`simulate.judge.judging`: what simulates is above what plans).
Judging = Callable[[Graph, CostModel], Judge]
#: What a run loses for memory that is used again early must be more than this share of it: a small arena stays in the caches.
REUSED = 0.01
#: Why the GPU cannot run a node, or None where it can.
Supports = Callable[[Node], "str | None"]

FALLBACK_NOTE = "fallback: no kernel here, computed by onnx.reference"
VIEW_NOTE = "view: no work"
FORCED_NOTE = "forced"
JOINED_NOTE = "joined: its inputs are written in place"


@dataclass(frozen=True)
class Situation:
    """What a strategy plans for: a graph, a board (None: unknown), where a real GPU is at hand what it supports, what the user wishes, and what
    runs showed.
    """

    graph: Graph
    profile: DeviceProfile | None = None
    supports: Supports | None = None
    wishes: Wishes = NONE
    corrections: Corrections | None = None
    judging: Judging | None = None

    @cached_property
    def cost(self) -> CostModel:
        """Costs on the board. Raises UsageError without a profile."""
        if self.profile is None:
            raise UsageError("this strategy needs a device profile", hint="make one with `coexec profile -o FILE`")
        return CostModel(self.profile, self.corrections)

    @cached_property
    def _totals(self) -> dict[tuple[Partition, ...], float]:
        return {}

    def total_us(self, partitions: Sequence[Partition]) -> float:
        """The predicted time of a whole run; kept."""
        key = tuple(partitions)
        if key not in self._totals:
            self._totals[key] = self.cost.total_us(self.graph, key)
        return self._totals[key]

    @cached_property
    def _leasts(self) -> dict[tuple[Partition, ...], float]:
        return {}

    def least_us(self, partitions: Sequence[Partition]) -> float:
        """What no run of that plan takes less than; kept."""
        key = tuple(partitions)
        if key not in self._leasts:
            self._leasts[key] = self.cost.least_us(self.graph, key)
        return self._leasts[key]

    def value(self, partitions: Sequence[Partition]) -> float:
        """What the objective counts: microseconds, or microjoules."""
        return self.cost.energy_uj(self.graph, partitions) if self.wishes.objective == "energy" else self.total_us(partitions)

    @cached_property
    def judge(self) -> Judge | None:
        """How long plans take by the steps of their runs; None where nobody can tell."""
        return self.judging(self.graph, self.cost) if self.judging is not None and self.profile is not None else None

    @cached_property
    def without_contention(self) -> CostModel:
        """The same costs as if no unit slowed the other down."""
        return CostModel(self.profile, self.corrections, contention=False)

    @cached_property
    def joined(self) -> frozenset[Node]:
        """The Concat nodes that need no work."""
        return joined(self.graph)

    def refused(self, node: Node) -> str | None:
        """Why the GPU cannot run a native node, or None where it can."""
        if self.profile is not None and self.profile.gpu is None:
            return "the profile has no GPU"
        if self.supports is not None:
            return self.supports(node)
        if self.profile is None:
            return None
        gpu = self.profile.gpu
        if node.qualified_type not in gpu.operators:
            return f"there is no kernel for {node.qualified_type}"
        missing = {v.dtype.name for v in (*node.inputs, *node.outputs) if v is not None and not v.is_constant} - {*gpu.dtypes}
        return f"it has no {', '.join(sorted(missing))}" if missing else None

    def check_wishes(self) -> None:
        """Raises UsageError where a node that is forced is not there, or cannot be where it is wanted."""
        if self.profile is None and (self.wishes.objective != "latency" or self.wishes.memory_bytes is not None):
            raise UsageError("only a device profile tells energy and memory", found=f"no profile, and {self.wishes}",
                             hint="give --profile, or a strategy that needs one")
        names = {n.name for n in self.graph.nodes}
        for name, device in self.wishes.force.items():
            if name not in names:
                raise UsageError(f"cannot force node '{name}': the prepared model has none such", hint=suggest(name, names))
            node = self.graph.node(name)
            if device == "gpu" and (reason := self._unmovable(node) or self.refused(node)):
                raise UsageError(f"cannot force node '{name}' to the gpu", found=reason)

    def _unmovable(self, node: Node) -> str:
        """Why a node has no place of its own to choose; "" where it has."""
        if not node.is_static or node.output is None or is_fallback(op_for(node)):
            return f"{node.qualified_type} has no kernel, it is computed by onnx.reference on the cpu"
        if op_for(node).is_view:
            return f"{node.qualified_type} is a view here, which is no work"
        return "its inputs are written in place, which is no work" if node in self.joined else ""

    @cached_property
    def all_settled(self) -> list[Partition | None]:
        """`settled` of every node, in the graph's order."""
        return [self.settled(n) for n in self.graph.nodes]

    def settled(self, node: Node) -> Partition | None:
        """The only partition that this node can have, or None where a strategy may choose."""
        on_cpu = Partition(node.name, node.op_type, None, (), ("cpu",))
        if not node.is_static or node.output is None or is_fallback(op_for(node)):
            return replace(on_cpu, note=FALLBACK_NOTE)
        if op_for(node).is_view:
            return replace(on_cpu, note=VIEW_NOTE)
        if not node.output.type.size:
            return replace(on_cpu, note="empty output")
        if node in self.joined:
            return replace(on_cpu, note=JOINED_NOTE)
        if node.name in self.wishes.force:
            return on_one_device(node, self.wishes.force[node.name], note=FORCED_NOTE)
        reason = self.refused(node)
        return on_one_device(node, "cpu", note=f"gpu: {reason}") if reason else None


@dataclass(frozen=True)
class Partitioner:
    """A strategy: `plan(graph, profile) -> Plan`. Its fields are its options; it prints as what `parse_strategy` reads."""

    name: ClassVar[str] = ""
    #: True where it cannot plan without a device profile.
    needs_profile: ClassVar[bool] = False
    #: What it may be told to be best in. A strategy that weighs nothing is the same under every objective.
    objectives: ClassVar[tuple[str, ...]] = OBJECTIVES

    @property
    def needs_gpu(self) -> bool:
        """True where it makes no sense without a GPU."""
        return False

    @property
    def uses_gpu(self) -> bool:
        """False where no node is ever put on the GPU."""
        return True

    @property
    def spec(self) -> str:
        """Its name and the options that differ from their defaults: `fixed:gpu=0.3`."""
        given = [f"{f.name}={_shown(getattr(self, f.name))}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{self.name}:{','.join(given)}" if given else self.name

    def __str__(self) -> str:
        return self.spec

    def plan(self, graph: Graph, profile: DeviceProfile | None = None, supports: Supports | None = None, *, wishes: Wishes = NONE,
             corrections: Corrections | None = None, judging: Judging | None = None) -> Plan:
        """A plan for that graph. `supports` tells why the GPU cannot run a node; without it the profile's operator list does.
        With `judging` the last word on a plan has what plays its run.

        Raises UsageError where the strategy needs a profile and there is none, and where a wish cannot be fulfilled.
        """
        if self.needs_profile and profile is None:
            raise UsageError(f"strategy '{self.name}' needs a device profile", hint="make one with `coexec profile -o FILE`")
        if wishes.objective not in self.objectives:
            raise UsageError(f"strategy '{self.name}' cannot plan for that objective", found=wishes.objective, expected=" or ".join(self.objectives),
                             hint="strategy coexec knows " + " and ".join(OBJECTIVES))
        situation = Situation(graph, profile, supports, wishes, corrections, judging)
        situation.check_wishes()
        with uncollected():
            chosen, bound = self.bounded(situation)
        if wishes.max_gpu_share < 1:
            chosen = [_limited(n, p, wishes.max_gpu_share) for n, p in zip(graph.nodes, chosen)]
        made = self.judged(situation, finish(situation, chosen, self.spec, bound))
        if wishes.memory_bytes is not None and made.memory_bytes is not None and made.memory_bytes > wishes.memory_bytes:
            raise UsageError(f"the plan of strategy '{self.name}' needs more memory than the limit", where=graph.name,
                             found=f"{made.memory_bytes} bytes (weights as packed, and activations; modelled)",
                             expected=f"at most {wishes.memory_bytes}", hint="strategy coexec looks for plans that fit")
        return made

    def judged(self, situation: Situation, made: Plan) -> Plan:
        """The plan as it is to be run: where waits are so dear that memory had better not be used again before they are over, it says so."""
        if situation.judge is None or made.predicted_ms is None or len(made.devices) < 2:
            return made
        if situation.judge(made) <= (1 + REUSED) * 1e3 * made.predicted_ms:
            return made
        waiting = replace(made, early_reuse=False)
        return waiting if situation.judge(made) > (1 + REUSED) * situation.judge(waiting) else made

    def bounded(self, situation: Situation) -> tuple[list[Partition], float | None]:
        """`arrange`, and what no plan of those that the strategy looked at can be better than, in terms of the objective; None: not known."""
        return self.arrange(situation), None

    def arrange(self, situation: Situation) -> list[Partition]:
        """A partition for every node, in the graph's order."""
        return [situation.settled(node) or self.place(node, situation) for node in situation.graph.nodes]

    def place(self, node: Node, situation: Situation) -> Partition:
        """A partition for a node that both devices can compute. Override this, or `arrange`."""
        raise NotImplementedError


def finish(situation: Situation, partitions: Sequence[Partition], spec: str, bound: float | None = None) -> Plan:
    """The plan of those partitions: predicted times where there is a profile, and chains."""
    graph, profile, wishes = situation.graph, situation.profile, situation.wishes
    partitions = keep_halos(graph, partitions)
    known: dict[str, Any] = {}
    if profile is not None:
        known["predicted_ms"] = round(situation.total_us(partitions) / 1e3, 6)
        known["memory_bytes"] = situation.cost.memory_bytes(graph, partitions)
        if wishes.objective == "energy":
            known["energy_mj"] = round(situation.cost.energy_uj(graph, partitions) / 1e3, 6)
        if bound is not None:
            known["gap"] = round(max(0.0, 1 - bound / max(situation.value(partitions), 1e-9)), 6)
        known["board"] = {"cpu": profile.cpu.name, **({"gpu": profile.gpu.name} if profile.gpu is not None else {})}
        priced, alone = [], not any(d != "cpu" for p in partitions for d in p.devices)
        for node, partition in zip(graph.nodes, partitions):
            us, estimated = (0.0, False) if node in situation.joined else situation.cost.node(node, partition, alone)
            priced.append(replace(partition, predicted_us=round(us, 3), estimated=estimated))
        partitions = priced
    return Plan(graph.name, graph.digest, spec, tuple(partitions), profile.name if profile else "",
                chains(graph, partitions, situation.cost.access if profile is not None else access),
                {v.name: v.shape for v in graph.inputs if v.type.is_static}, wishes=wishes, **known)


def _limited(node: Node, partition: Partition, most: float) -> Partition:
    """The partition with no more than that share on the GPU, unless it was forced there."""
    if partition.ratio.get("gpu", 0.0) <= most or partition.note == FORCED_NOTE or partition.axis is None:
        return partition if partition.ratio.get("gpu", 0.0) <= most or partition.note == FORCED_NOTE else replace(partition, devices=("cpu",))
    axis = next((a for a in axes_of(node) if a.name == partition.axis), None)
    at = 0 if axis is None else int(most * axis.extent / axis.multiple) * axis.multiple
    return cut(node, axis, (0, at, axis.extent), ("gpu", "cpu")) if at else on_one_device(node, "cpu")


def share(node: Node, axis: SplitAxis, ratio: float) -> Partition:
    """The node cut so that the GPU gets the legal part of the axis nearest to `ratio`, first; either piece may be empty."""
    units = axis.extent / axis.multiple
    at = min(axis.extent, int(ratio * units + 0.5) * axis.multiple)
    return cut(node, axis, (0, at, axis.extent), ("gpu", "cpu"))


def preferred_axis(node: Node, *names: str) -> SplitAxis | None:
    """The first split axis of one of those names that can really be cut, else the first such of any name, else None."""
    axes = [a for a in axes_of(node) if a.extent > a.multiple]
    return next((a for n in names for a in axes if a.name == n), axes[0] if axes else None)


# Names and options

S = TypeVar("S", bound=type[Partitioner])
_registry: dict[str, type[Partitioner]] = {}


def register(cls: S) -> S:
    """Class decorator: makes the strategy known by its `name`. A name that is known already is an error."""
    if cls.name in _registry:
        raise ValueError(f"strategy {cls.name} is defined twice")
    _registry[cls.name] = cls
    return cls


@lru_cache(maxsize=1)
def _discover() -> None:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def strategies() -> Mapping[str, type[Partitioner]]:
    """Every strategy by name."""
    _discover()
    return dict(sorted(_registry.items()))


def parse_strategy(text: str) -> Partitioner:
    """The strategy that `name` or `name:option=value,...` means. Raises UsageError for a name, option or value it does not know."""
    name, colon, rest = text.strip().partition(":")
    known = strategies()
    if name not in known:
        raise UsageError(f"unknown strategy '{name}'", hint=suggest(name, known))
    cls = known[name]
    options = {f.name: f for f in fields(cls)}
    given: dict[str, Any] = {}
    if colon and not rest.strip():
        raise UsageError(f"strategy '{name}:' has no options after the colon", expected=_usage(cls))
    for part in rest.split(",") if rest else ():
        key, equals, value = (p.strip() for p in part.partition("="))
        if key not in options:
            raise UsageError(f"strategy '{name}' has no option '{key}'", expected=_usage(cls),
                             hint=suggest(key, options) if options else "")
        if not equals or not value:
            raise UsageError(f"option '{key}' of strategy '{name}' has no value", expected=_usage(cls))
        if key in given:
            raise UsageError(f"option '{key}' of strategy '{name}' is given twice")
        given[key] = _value(name, key, value, options[key].default)
    return cls(**given)


def _value(strategy: str, key: str, text: str, default: Any) -> Any:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(default, bool):
        if text.lower() not in words:
            raise UsageError(f"option '{key}' of strategy '{strategy}' is wrong", found=repr(text), expected="true or false")
        return words[text.lower()]
    if isinstance(default, (int, float)):
        kind = type(default)
        try:
            return kind(text)
        except ValueError:
            raise UsageError(f"option '{key}' of strategy '{strategy}' is wrong", found=repr(text),
                             expected="a whole number" if kind is int else "a number") from None
    return text


def _usage(cls: type[Partitioner]) -> str:
    options = ",".join(f"{f.name}={_shown(f.default) or f.name.upper()}" for f in fields(cls))
    return f"{cls.name}:{options}" if options else f"{cls.name}, which has no options"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)

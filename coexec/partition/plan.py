"""Partition, Plan: plain data that says where every piece of every node runs. A cut is an integer; ratios are computed.

A plan is made for one graph with bound shapes. It can be printed, saved, loaded, compared and replayed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import files
from ..errors import IllegalCut, PlanMismatch, UsageError
from ..graph.ir import Graph, Node
from ..ops import axis_names, op_for
from ..ops.base import SplitAxis, axes_of, pieces_along
from ..ops.fallback import is_fallback
from ..regions import Region
from .wishes import Wishes

FORMAT = 1


@dataclass(frozen=True)
class Partition:
    """One node's cut: piece i covers bounds[i]:bounds[i+1] of the first output's `axis` and runs on devices[i].

    `axis` is None for a node that is not cut at all (one piece, bounds empty). `note` says why it is where it is, if a person
    should know: a fallback, a device that lacks the operator, a view that costs nothing. `halo`: how far each piece reaches beyond its
    bounds, before and after: both sides compute those rows, each for itself, so that what follows need not wait for the other side.
    """

    name: str
    op_type: str
    axis: str | None
    bounds: tuple[int, ...]
    devices: tuple[str, ...]
    predicted_us: float | None = None
    estimated: bool = True
    note: str = ""
    halo: tuple[int, int] = (0, 0)

    @property
    def ratio(self) -> Mapping[str, float]:
        """The share of the output that each device computes."""
        if self.axis is None:
            return {self.devices[0]: 1.0} if self.devices else {}
        total = max(1, self.bounds[-1])
        shares: dict[str, float] = {}
        for device, start, stop in zip(self.devices, self.bounds, self.bounds[1:]):
            shares[device] = shares.get(device, 0.0) + (stop - start) / total
        return shares

    def __str__(self) -> str:
        cut = "whole" if self.axis is None else f"{self.axis} {'|'.join(map(str, self.bounds))}"
        twice = f" with {self.halo[0]}+{self.halo[1]} twice" if any(self.halo) else ""
        return f"{cut} on {'|'.join(self.devices) or 'nothing'}{twice}"


@dataclass(frozen=True)
class Plan:
    """Every partition of a graph, in its order, with what it was made from and what it should take.

    `chains` are runs of nodes between two waits. `shapes` are the input shapes it was made for. `measured_ms` is the lower quartile of
    runs on the machine where it was checked, None where it was not. `counters`: CPU and GPU are kept in step by words in shared
    memory, where the device can, not by the driver's events. `band_bytes`: chains of CPU pieces with larger maps than this between them
    run band by band of rows, so that the maps stay in a cache of that size; 0: piece by piece. `early_reuse`: memory is used again before
    anybody waited for the GPU's piece that was at it, which costs a wait now and then; without it a run takes more memory.
    `board`: the names of the units that it was made for, where it was made from a profile. `wishes`: what it was asked for besides. `gap`: no
    plan of those that the strategy could choose from is better by more than this share (0: it is the best of them; None: not known).
    `energy_mj` and `memory_bytes` are modelled, not measured. `images`: nodes whose GPU pieces work on images (`partition.images`).
    """

    model: str
    model_digest: str
    strategy: str
    partitions: tuple[Partition, ...]
    profile: str = ""
    chains: tuple[tuple[str, ...], ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    predicted_ms: float | None = None
    planning_ms: float | None = None
    measured_ms: float | None = None
    counters: bool = False
    band_bytes: int = 0
    early_reuse: bool = True
    board: Mapping[str, str] = field(default_factory=dict)
    wishes: Wishes = field(default_factory=Wishes)
    gap: float | None = None
    energy_mj: float | None = None
    memory_bytes: int | None = None
    images: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Partition:
        return self._by_name[name]

    @property
    def _by_name(self) -> Mapping[str, Partition]:
        cached = self.__dict__.get("_index")
        if cached is None:
            cached = {p.name: p for p in self.partitions}
            object.__setattr__(self, "_index", cached)
        return cached

    @property
    def objective(self) -> str:
        """What it was made to be best in: `latency` or `energy`."""
        return self.wishes.objective

    @cached_property
    def devices(self) -> frozenset[str]:
        """Every device that computes something."""
        return frozenset(d for p in self.partitions for d in p.devices)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: keys `model`, `profile`, `strategy`, `predicted_ms`, `planning_ms`, `nodes`, `chains` and more."""
        return {
            "format": FORMAT,
            "model": self.model,
            "model_digest": self.model_digest,
            "profile": self.profile,
            "strategy": self.strategy,
            "shapes": {k: list(v) for k, v in self.shapes.items()},
            "predicted_ms": self.predicted_ms,
            "planning_ms": self.planning_ms,
            "measured_ms": self.measured_ms,
            "counters": self.counters,
            "band_bytes": self.band_bytes,
            "early_reuse": self.early_reuse,
            "board": dict(self.board),
            "objective": self.objective,
            "wishes": self.wishes.to_dict(),
            "gap": self.gap,
            "energy_mj": self.energy_mj,
            "memory_bytes": self.memory_bytes,
            "images": list(self.images),
            "nodes": [{**asdict(p), "bounds": list(p.bounds), "devices": list(p.devices), "halo": list(p.halo)} for p in self.partitions],
            "chains": [list(c) for c in self.chains],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan as JSON, whole or not at all."""
        files.write(path, json.dumps(self.to_dict(), indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Reads a saved plan. Raises PlanMismatch where the file is no plan."""
        try:
            data = json.loads(Path(path).read_text())
        except OSError as error:
            raise PlanMismatch("cannot read the plan", where=str(path), found=error.strerror) from None
        except (ValueError, RecursionError) as error:
            raise PlanMismatch("not a plan", where=str(path), found=str(error)[:200], expected="the JSON that `coexec plan -o` writes") from None
        return cls.from_dict(data, where=str(path))

    @classmethod
    def from_dict(cls, data: Any, where: str = "plan") -> Plan:
        """The inverse of `to_dict`. Raises PlanMismatch naming the first key that is wrong."""
        top = _checked(data, where, "", {"model": str, "model_digest": str, "strategy": str, "nodes": list})
        if top.get("format") != FORMAT:
            raise PlanMismatch("unknown plan format", where=where, found=repr(top.get("format")), expected=FORMAT, hint="make the plan again")
        partitions = []
        for i, item in enumerate(top["nodes"]):
            key = f"nodes[{i}]"
            node = _checked(item, where, key, {"name": str, "op_type": str, "bounds": list, "devices": list})
            axis = node.get("axis")
            if axis is not None and not isinstance(axis, str):
                raise PlanMismatch(f"key '{key}.axis' is wrong", where=where, found=repr(axis), expected="an axis name or null")
            if any(not isinstance(b, int) or isinstance(b, bool) for b in node["bounds"]):
                raise PlanMismatch(f"key '{key}.bounds' is wrong", where=where, found=node["bounds"], expected="whole numbers")
            if any(not isinstance(d, str) for d in node["devices"]):
                raise PlanMismatch(f"key '{key}.devices' is wrong", where=where, found=node["devices"], expected="device names")
            halo = node.get("halo", [0, 0])
            if not isinstance(halo, list) or len(halo) != 2 or any(type(h) is not int or h < 0 for h in halo):
                raise PlanMismatch(f"key '{key}.halo' is wrong", where=where, found=repr(halo), expected="two whole numbers, at least 0")
            predicted = node.get("predicted_us")
            partitions.append(Partition(
                node["name"], node["op_type"], axis, tuple(node["bounds"]), tuple(node["devices"]),
                _number(predicted), bool(node.get("estimated", True)), str(node.get("note", "")),
                (halo[0], halo[1]),
            ))
        shapes = top.get("shapes") if isinstance(top.get("shapes"), dict) else {}
        chains = top.get("chains") if isinstance(top.get("chains"), list) else []
        board = top.get("board") if isinstance(top.get("board"), dict) else {}
        images = top.get("images", [])
        if not isinstance(images, list) or any(not isinstance(name, str) for name in images):
            raise PlanMismatch("key 'images' is wrong", where=where, found=repr(images)[:80], expected="names of nodes")
        band_bytes = top.get("band_bytes", 0)
        if type(band_bytes) is not int or band_bytes < 0:
            raise PlanMismatch("key 'band_bytes' is wrong", where=where, found=repr(band_bytes), expected="a whole number, at least 0")
        try:
            wishes = Wishes.from_dict(top["wishes"] if isinstance(top.get("wishes"), dict) else {})
        except UsageError as error:
            raise PlanMismatch(f"key 'wishes' is wrong: {error.what}", where=where, found=error.found, expected=error.expected) from None
        return cls(
            top["model"], top["model_digest"], top["strategy"], tuple(partitions), str(top.get("profile", "")),
            tuple(tuple(map(str, c)) for c in chains if isinstance(c, list)),
            {str(k): tuple(v) for k, v in shapes.items() if isinstance(v, list)}, _number(top.get("predicted_ms")), _number(top.get("planning_ms")),
            _number(top.get("measured_ms")), top.get("counters") is True,
            band_bytes, top.get("early_reuse") is not False,
            board={str(k): str(v) for k, v in board.items()}, wishes=wishes, gap=_number(top.get("gap")),
            energy_mj=_number(top.get("energy_mj")), memory_bytes=None if (nbytes := _number(top.get("memory_bytes"))) is None else int(nbytes),
            images=tuple(images),
        )

    def check_board(self, units: Mapping[str, str]) -> None:
        """Raises PlanMismatch where the plan was made for other units than those, by device name."""
        for device in sorted(self.devices):
            made_for, here = self.board.get(device), units.get(device)
            if made_for is not None and here is not None and made_for != here:
                raise PlanMismatch("the plan was made for another device", where=self.model, found=f"{device} '{made_for}' in the plan",
                                   expected=f"'{here}', which is here", hint="plan again with this machine's profile")

    def diff(self, other: Plan) -> list[Change]:
        """The nodes whose placement differs, this plan's first; a node that one of them lacks is None there."""
        names = dict.fromkeys([p.name for p in (*self.partitions, *other.partitions)])
        pairs = [(n, self._by_name.get(n), other._by_name.get(n)) for n in names]
        return [Change(n, a, b) for n, a, b in pairs
                if (a and (a.axis, a.bounds, a.devices, a.halo)) != (b and (b.axis, b.bounds, b.devices, b.halo))]

    def check(self, graph: Graph) -> None:
        """Raises PlanMismatch or IllegalCut unless every node of the graph has a legal partition here."""
        if self.model_digest != graph.digest:
            raise PlanMismatch("the plan was made for another model, or for other input shapes", where=self.model,
                               found=f"digest {self.model_digest}", expected=graph.digest, hint="plan again for this model and these shapes")
        named = {p.name for p in self.partitions}
        missing = [n.name for n in graph.nodes if n.name not in named]
        if missing:
            raise PlanMismatch(f"{len(missing)} node(s) have no partition: {', '.join(missing[:5])}", where=self.model, hint="plan again")
        for node in graph.nodes:
            pieces(node, self[node.name])

    def __str__(self) -> str:
        width = min(40, max([len(p.name) for p in self.partitions], default=4))
        lines = [f"plan of {self.model} by {self.strategy}"
                 + (f", predicted {self.predicted_ms:.2f} ms" if self.predicted_ms is not None else "")
                 + (f", measured {self.measured_ms:.2f} ms" if self.measured_ms is not None else "")
                 + (f", {self.energy_mj:.3g} mJ (modelled)" if self.energy_mj is not None else "")
                 + (f"; asked for {self.wishes}" if self.wishes else "")]
        for p in self.partitions:
            cost = "" if p.predicted_us is None else f"{p.predicted_us:9.1f} us{'~' if p.estimated else ' '}"
            lines.append(f"  {p.name[-width:]:{width}}  {p.op_type:18.18}  {p}  {cost}{'  # ' + p.note if p.note else ''}".rstrip())
        if self.images:
            lines.append(f"  {len(self.images)} nodes' GPU pieces work on images: {', '.join(self.images[:6])}{' ...' * (len(self.images) > 6)}")
        return "\n".join(lines)


def _number(found: Any) -> float | None:
    """A number that a plan tells for a person to read; None where it is none."""
    try:
        return float(found) if isinstance(found, (int, float)) else None
    except OverflowError:  # JSON's whole numbers have no limit
        return None


@dataclass(frozen=True)
class Change:
    """A node that two plans place differently."""

    name: str
    first: Partition | None
    second: Partition | None


def _checked(data: Any, where: str, key: str, wanted: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise PlanMismatch(f"key '{key or 'the file'}' is wrong", where=where, found=type(data).__name__, expected="an object")
    for name, kind in wanted.items():
        if not isinstance(data.get(name), kind):
            found = "nothing" if name not in data else f"{type(data[name]).__name__}"
            raise PlanMismatch(f"key '{key + '.' if key else ''}{name}' is wrong", where=where, found=found, expected=kind.__name__,
                               hint="make the plan again with `coexec plan -o`")
    return data


def pieces(node: Node, partition: Partition) -> list[tuple[str, Region]]:
    """The (device, region of the first output) of every piece that is not empty. Raises IllegalCut for an illegal one."""
    key, kept = ("pieces", partition.op_type, partition.axis, partition.bounds, partition.devices, partition.halo), node.kept
    if key not in kept:  # planner, cost model, schedule and simulation ask for the same ones again and again
        kept[key] = _pieces(node, partition)
    return list(kept[key])


def _pieces(node: Node, partition: Partition) -> list[tuple[str, Region]]:
    where = f"{node.op_type} '{node.name}'"
    if partition.op_type != node.op_type:
        raise PlanMismatch("the plan speaks of another operator", where=where, found=partition.op_type, expected=node.op_type)
    if partition.axis is None:
        if len(partition.devices) != 1:
            raise IllegalCut("a node without a split axis runs whole on one device", where=where, found=list(partition.devices))
        whole = Region.whole(node.output.shape) if node.output is not None and node.output.type.is_static else Region()
        return [(partition.devices[0], whole)]
    if len(partition.devices) != len(partition.bounds) - 1:
        raise IllegalCut("a partition has one device per piece", where=where,
                         found=f"{len(partition.devices)} devices, bounds {list(partition.bounds)}")
    op = op_for(node)
    if len(partition.devices) == 1:
        axis = whole_axis(node, partition.axis)
    else:
        axis = op.axis(node, partition.axis)
    regions = pieces_along(node, axis, partition.bounds)
    if any(partition.halo):
        regions = [_reaching(r, axis, partition.halo, where) for r in regions]
    return [(d, r) for d, r in zip(partition.devices, regions) if r.size]


def _reaching(region: Region, axis: SplitAxis, halo: tuple[int, int], where: str) -> Region:
    """The region and its halo, as far as there is something on that side."""
    if any(h % axis.multiple for h in halo):
        raise IllegalCut(f"cannot compute {halo[0]}+{halo[1]} twice along axis '{axis.name}'", where=where, expected=f"multiples of {axis.multiple}")
    start, stop = region[axis.dim]
    return region if start >= stop else region.replace(axis.dim, (max(0, start - halo[0]), min(axis.extent, stop + halo[1])))


def whole_axis(node: Node, name: str) -> SplitAxis:
    """That axis of the first output, whether or not it may be cut: one piece is always legal."""
    names = _names(node)
    if name not in names:
        return op_for(node).axis(node, name)
    return SplitAxis(name, names.index(name), node.output.shape[names.index(name)])


def _names(node: Node) -> tuple[str, ...]:
    known = {a.dim: a.name for a in axes_of(node)}
    return tuple(known.get(d, n) for d, n in enumerate(axis_names(len(node.output.shape))))


def on_one_device(node: Node, device: str, **more: Any) -> Partition:
    """The whole node on one device: an ordinary partition with one piece, along the operator's first split axis."""
    axes = () if is_fallback(op_for(node)) else axes_of(node)
    if not axes:
        return Partition(node.name, node.op_type, None, (), (device,), **more)
    return Partition(node.name, node.op_type, axes[0].name, (0, axes[0].extent), (device,), **more)


def cut(node: Node, axis: SplitAxis, bounds: Sequence[int], devices: Sequence[str], **more: Any) -> Partition:
    """A partition along one axis; pieces that are empty are kept, as the strategy asked for them."""
    return Partition(node.name, node.op_type, axis.name, tuple(bounds), tuple(devices), **more)

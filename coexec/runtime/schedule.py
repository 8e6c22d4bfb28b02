"""What happens in which order: a pure function of graph and plan, without devices.

The host walks the nodes in order. A piece of an asynchronous device is started and not waited for; a piece of the CPU runs at once.
A wait is put in only where somebody needs what an asynchronous device wrote and nobody waited for it yet. Regions are tracked exactly,
so a cut that needs only its own side's rows waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..graph.ir import Graph, Node, Value
from ..ops import op_for
from ..ops.fallback import is_fallback
from ..partition.halos import copies, keep_halos
from ..partition.joins import joined, places, shifted
from ..partition.plan import Plan, pieces
from ..regions import Region, subtract

HOST = "cpu"


@dataclass(frozen=True, eq=False)
class Start:
    """Start the piece `region` of a node on a device; `index` numbers the pieces of asynchronous devices.

    Where the device keeps its own copy of a value, `node` is the graph's node on copies (`partition.halos`), of the same name.

    `after`: the last step by which the host wrote something that an asynchronous piece reads, -1 where there is none.
    """

    node: Node
    device: str
    region: Region
    index: int = -1
    after: int = -1


@dataclass(frozen=True, eq=False)
class Alias:
    """A view: the output is the input's memory under another shape. No work."""

    node: Node


@dataclass(frozen=True, eq=False)
class Join:
    """A Concat whose inputs were written into its output's memory. No work."""

    node: Node


@dataclass(frozen=True, eq=False)
class Dynamic:
    """A node whose shapes are known only when it runs: the reference computes it on the host, whole."""

    node: Node


@dataclass(frozen=True, eq=False)
class Wait:
    """Wait until the asynchronous piece `index` of `device` is done (and with it every earlier piece of that device)."""

    device: str
    index: int


@dataclass(frozen=True, eq=False)
class Flush:
    """Make sure that what was started on `device` begins."""

    device: str


@dataclass(frozen=True, eq=False)
class Move:
    """Where memory is not shared: bring `region` of a value from one side to the other. `to` is the device that needs it.

    A move to the host is waited for by the executor before the next step; one to a device is over once its piece `index` is.
    """

    value: Value
    region: Region
    device: str
    to_host: bool
    index: int = -1


Step = Start | Alias | Join | Dynamic | Wait | Flush | Move


def written(step: Step) -> Iterator[tuple[str, Value]]:
    """Who writes what; nobody writes an output that a node leaves out."""
    match step:
        case Start(node=node, device=device):
            yield from ((device, v) for v in node.outputs if v is not None)
        case Dynamic(node=node):
            yield from ((HOST, v) for v in node.outputs if v is not None)
        case Alias(node=node) if node.inputs[0].is_constant:
            yield HOST, node.output
        case Move(value=value, to_host=True):
            yield HOST, value


@dataclass
class _Knowledge:
    """What is known of one value: which regions each side can see, and which pieces wrote the rest."""

    seen: dict[str, list[Region]] = field(default_factory=dict)
    writers: list[tuple[Region, str, int]] = field(default_factory=list)
    written: list[tuple[Region, int]] = field(default_factory=list)  # by the host, at which step

    def last_written(self, region: Region) -> int:
        """The last step by which the host wrote some of that region; -1 where it was there from the start, or not the host's."""
        return max((at for there, at in self.written if (there & region).size), default=-1)


def schedule(graph: Graph, plan: Plan, asynchronous: frozenset[str] = frozenset({"gpu"}),
             is_alias: Callable[[Node], bool] | None = None) -> list[Step]:
    """The steps of one run. Graph inputs are on the host at the start; graph outputs are there at the end."""
    return _Scheduler(graph, plan, asynchronous, is_alias or (lambda n: n.is_static and op_for(n).is_view)).steps()


class _Scheduler:
    def __init__(self, graph: Graph, plan: Plan, asynchronous: frozenset[str], is_alias: Callable[[Node], bool]):
        self.graph, self.plan, self.asynchronous, self.is_alias = graph, plan, asynchronous, is_alias
        self.out: list[Step] = []
        self.known: dict[Value, _Knowledge] = {}
        self.started: dict[str, int] = {d: 0 for d in asynchronous}
        self.waited: dict[str, int] = {d: 0 for d in asynchronous}
        self.unflushed: set[str] = set()
        self.joined = joined(graph)
        kept = keep_halos(graph, [plan[n.name] for n in graph.nodes])
        self.partitions = {n: p for n, p in zip(graph.nodes, kept)}
        self.copies = copies(graph, kept)

    def steps(self) -> list[Step]:
        for value in self.graph.inputs:
            if value.type.is_static:
                self._knowledge(value).seen[HOST] = [Region.whole(value.shape)]
        for node in self.graph.nodes:
            self._node(node)
        for value in self.graph.outputs:
            if not value.is_constant and value.type.is_static:
                self._need(value, Region.whole(value.shape), HOST)
        for device in sorted(self.asynchronous):  # nothing may still run when the outputs are handed out and memory is reused
            if self.waited[device] < self.started[device]:
                self._wait(device, self.started[device])
        return self.out

    def _node(self, node: Node) -> None:
        if not node.is_static:
            for value in node.inputs:
                if value is not None and not value.is_constant and value.type.is_static:
                    self._need(value, Region.whole(value.shape), HOST)
            self.out.append(Dynamic(node))
            for value in node.outputs:
                if value is not None and value.type.is_static:
                    self._wrote(value, Region.whole(value.shape), HOST, -1)
            return
        if self.is_alias(node):
            self._alias(node)
            return
        if node in self.joined:
            self._join(node)
            return
        op = op_for(node)
        todo = pieces(node, self.partitions[node])
        for device, region in sorted(todo, key=lambda p: p[0] not in self.asynchronous):  # the far device first
            mine = self.copies.on(node, device)
            reads = [None if v is None else Region.whole(v.shape) for v in node.inputs] if is_fallback(op) else op.regions_read(node, region)
            after = -1
            for value, needed in zip(mine.inputs, reads):
                if value is not None and needed is not None and not value.is_constant:
                    self._need(value, needed, device)
                    after = max(after, self._knowledge(value).last_written(needed))
            index = -1
            if device in self.asynchronous:
                self.started[device] += 1
                index = self.started[device]
                self.unflushed.add(device)
            else:
                self._flush()
            self.out.append(Start(mine, device, region, index, after if index >= 0 else -1))
            writes = [None if v is None else Region.whole(v.shape) for v in node.outputs] if is_fallback(op) else op.output_regions(node, region)
            for value, written in zip(mine.outputs, writes):
                if value is not None and written is not None:
                    self._wrote(value, written, device, index)

    def _alias(self, node: Node) -> None:
        """The output inherits what is known where one side knows all of the input; else the host is made to know it."""
        source, target = node.inputs[0], node.output
        self.out.append(Alias(node))
        whole_in, whole_out = Region.whole(source.shape), Region.whole(target.shape)
        if source.is_constant:
            self._wrote(target, whole_out, HOST, -1)
            return
        known = self._knowledge(source)
        sides = [side for side, regions in known.seen.items() if not subtract([whole_in], regions)]
        if not sides:
            self._need(source, whole_in, HOST)
            sides = [HOST]
        for side in sides:
            self._knowledge(target).seen[side] = [whole_out]
        if known.written:
            self._knowledge(target).written = [(whole_out, known.last_written(whole_in))]
        if HOST not in sides:
            last = max(i for _, d, i in known.writers if d in sides)
            self._knowledge(target).writers = [(whole_out, sides[0], last)]

    def _join(self, node: Node) -> None:
        """What is known of each input is known of its place in the output."""
        self.out.append(Join(node))
        target = self._knowledge(node.output)
        for value, place in places(node).items():
            known = self._knowledge(value)
            for side, regions in known.seen.items():
                target.seen.setdefault(side, []).extend(shifted(r, place) for r in regions)
            target.writers.extend((shifted(r, place), device, index) for r, device, index in known.writers)
            target.written.extend((shifted(r, place), at) for r, at in known.written)

    def _knowledge(self, value: Value) -> _Knowledge:
        return self.known.setdefault(value, _Knowledge())

    def _wrote(self, value: Value, region: Region, device: str, index: int) -> None:
        known = self._knowledge(value)
        known.seen.setdefault(device, []).append(region)
        if device in self.asynchronous:
            known.writers.append((region, device, index))
        else:
            known.written.append((region, len(self.out) - 1))

    def _need(self, value: Value, region: Region, side: str) -> None:
        """Puts in what must happen before `side` may read that region."""
        known = self._knowledge(value)
        missing = subtract([region], known.seen.get(side, []))
        if not missing:
            return
        for writer_region, device, index in known.writers:
            if device == side:
                continue
            found = [m & writer_region for m in missing if (m & writer_region).size]
            if not found:
                continue
            # Only what the host does not have yet must be fetched from the device that wrote it.
            fetch = subtract(found, known.seen.get(HOST, []))
            if fetch:
                self._wait(device, index)
                for piece in fetch:
                    self.out.append(Move(value, piece, device, to_host=True))
                    known.seen.setdefault(HOST, []).append(piece)
        if side != HOST:
            for piece in missing:
                self.out.append(Move(value, piece, side, False, self.started[side] + 1))
            known.seen.setdefault(side, []).extend(missing)

    def _wait(self, device: str, index: int) -> None:
        self._flush()
        if self.waited[device] < index:
            self.waited[device] = index
            self.out.append(Wait(device, index))

    def _flush(self) -> None:
        for device in sorted(self.unflushed):
            self.out.append(Flush(device))
        self.unflushed.clear()

"""Where a plan has to wait: who wrote what, and which pieces read it. The chains of a plan are what lies between two waits.

The planner's view of the order of events: the host starts a node's GPU piece, then computes the CPU piece; GPU pieces run one after
another. A wait lies before a CPU piece that reads what a GPU piece wrote and nobody waited for yet, and at the graph's outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..graph.ir import Graph, Node, Value
from ..ops import op_for
from ..ops.base import Op
from ..ops.fallback import is_fallback
from ..regions import Region
from .plan import Partition, pieces

HOST = "cpu"


class Visit(NamedTuple):
    """What happens at one node: its pieces, the last earlier GPU piece its CPU piece waits for (0: none), and bytes that change sides.

    `started` numbers this node's own GPU piece (0: none). Bytes count only where the two memories are not one.
    """

    node: Node
    pieces: tuple[tuple[str, Region], ...]
    started: int
    waits_for: int
    upload_bytes: int
    download_bytes: int
    moves: int


class Write(NamedTuple):
    """A region that one piece wrote: by the host (number 0) or by the numbered GPU piece."""

    region: Region
    number: int


@dataclass(frozen=True)
class Access:
    """What one piece reads and writes: static values with their regions, constants left out. `view`: the node only renames memory."""

    reads: tuple[tuple[Value, Region], ...]
    writes: tuple[tuple[Value, Region], ...]
    view: bool = False


def access(node: Node, region: Region, op: Op | None = None) -> Access:
    """The regions that the piece `region` of a node reads and writes; `op` is the node's operator, where it is known already."""
    op = op or op_for(node)
    if is_fallback(op):
        read = [Region.whole(v.shape) if v is not None and v.type.is_static else None for v in node.inputs]
        written = [Region.whole(v.shape) if v is not None and v.type.is_static else None for v in node.outputs]
    else:
        read, written = list(op.regions_read(node, region)), list(op.output_regions(node, region))
    return Access(
        tuple((v, r) for v, r in zip(node.inputs, read) if v is not None and r is not None and not v.is_constant and r.size),
        tuple((v, r) for v, r in zip(node.outputs, written) if v is not None and r is not None and r.size),
        op.is_view,
    )


class Flow:
    """Who wrote which region so far; `shared`: the two memories are one. Cheap to copy, so that a planner can try several futures."""

    __slots__ = ("shared", "writes", "started", "waited", "moved")

    def __init__(self, shared: bool = True) -> None:
        self.shared = shared
        self.writes: dict[Value, tuple[Write, ...]] = {}
        self.started = 0
        self.waited = 0
        self.moved: set[tuple[Value, str, Region]] = set()

    def copy(self) -> Flow:
        other = Flow(self.shared)
        other.writes, other.started, other.waited, other.moved = dict(self.writes), self.started, self.waited, set(self.moved)
        return other

    def visit(self, node: Node, parts: Sequence[tuple[str, Region]], reach: Sequence[Access]) -> Visit:
        """Records the node's pieces (`reach[i]` is the access of parts[i]) and says what has to happen for them."""
        up = down = moves = waits_for = number = 0
        written: list[tuple[Value, Write]] = []
        if reach and reach[0].view:
            waits_for, down = self._alias(node)
            self.waited = max(self.waited, waits_for)
            return Visit(node, (), 0, waits_for, 0, down, int(down > 0))
        for (device, _), touched in zip(parts, reach):
            if device == HOST:
                need, nbytes = self._host_needs(touched)
                waits_for, down, moves = max(waits_for, need), down + nbytes, moves + (nbytes > 0)
                written += [(v, Write(r, 0)) for v, r in touched.writes]
            else:
                number = self.started = self.started + 1
                nbytes = self._gpu_needs(touched)
                up, moves = up + nbytes, moves + (nbytes > 0)
                written += [(v, Write(r, number)) for v, r in touched.writes]
        self.waited = max(self.waited, waits_for)
        for value, write in written:
            self.writes[value] = (*self.writes.get(value, ()), write)
        return Visit(node, tuple(parts), number, waits_for, up, down, moves)

    def last_needed(self, reads: Sequence[tuple[Value, Region]]) -> int:
        """The last GPU piece that the host has to wait for before it reads those regions (0: none); nothing is recorded."""
        last, waited = 0, self.waited
        for value, region in reads:
            for write in self.writes.get(value, ()):
                if write.number > waited and write.number > last and _meet(write.region, region):
                    last = write.number
        return last

    def _host_needs(self, touched: Access) -> tuple[int, int]:
        """The last GPU piece to wait for, and the bytes to fetch."""
        last = nbytes = 0
        for value, region in touched.reads:
            for write in self.writes.get(value, ()):
                if write.number:
                    if not _meet(write.region, region):
                        continue
                    last = max(last, write.number if write.number > self.waited else 0)
                    if not self.shared:
                        nbytes += self._moved(value, HOST, write.region & region)
        return last, nbytes

    def _gpu_needs(self, touched: Access) -> int:
        """Bytes to bring from the host: what it wrote, and graph inputs."""
        nbytes = 0
        if self.shared:
            return 0
        for value, region in touched.reads:
            known = self.writes.get(value)
            for write in known if known is not None else (Write(Region.whole(value.shape), 0),):
                if not write.number:
                    common = write.region & region
                    if common.size:
                        nbytes += self._moved(value, "gpu", common)
        return nbytes

    def _moved(self, value: Value, to: str, region: Region) -> int:
        key = (value, to, region)
        if self.shared or key in self.moved:
            return 0
        self.moved.add(key)
        return region.size * value.dtype.itemsize

    def _alias(self, node: Node) -> tuple[int, int]:
        """A view passes on what is known where one side wrote it all; else the host is made to know it."""
        source, target = node.inputs[0], node.output
        known = () if source is None or source.is_constant else self.writes.get(source, ())
        whole = Region.whole(target.shape)
        unseen = [w for w in known if w.number]
        if not unseen:
            self.writes[target] = (Write(whole, 0),)
            return 0, 0
        last = max(w.number for w in unseen)
        if len(unseen) == len(known):
            self.writes[target] = (Write(whole, last),)
            return 0, 0
        self.writes[target] = (Write(whole, 0),)
        nbytes = sum(self._moved(source, HOST, w.region) for w in unseen)
        return (last if last > self.waited else 0), nbytes

    def finish(self, outputs: Iterable[Value]) -> tuple[int, int]:
        """The last GPU piece to wait for at the end (all of them), and the bytes of the outputs to fetch."""
        read = tuple((v, Region.whole(v.shape)) for v in outputs if v.type.is_static and not v.is_constant)
        _, nbytes = self._host_needs(Access(read, ()))
        return (self.started if self.waited < self.started else 0), nbytes


def _meet(one: Region, other: Region) -> bool:
    """Whether two regions have an element in common."""
    for (a, b), (c, d) in zip(one, other):
        if a >= d or c >= b:
            return False
    return True


def chains(graph: Graph, partitions: Sequence[Partition]) -> tuple[tuple[str, ...], ...]:
    """The names of the nodes between two waits, in order: every node is in exactly one chain."""
    flow, found = Flow(), [[]]  # type: ignore[var-annotated]
    for node, partition in zip(graph.nodes, partitions):
        parts = pieces(node, partition)
        visit = flow.visit(node, parts, [access(node, r) for _, r in parts])
        if visit.waits_for and found[-1]:
            found.append([])
        found[-1].append(node.name)
    return tuple(tuple(c) for c in found if c)

"""Where a plan has to wait: who wrote what, and which pieces read it. The chains of a plan are what lies between two waits.

The planner's view of the order of events: the host starts a node's GPU piece, then computes the CPU piece; GPU pieces run one after
another. A wait lies before a CPU piece that reads what a GPU piece wrote and nobody waited for yet, and at the graph's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..graph.ir import Graph, Node, Value
from ..ops import op_for
from ..ops.base import Op
from ..ops.fallback import is_fallback
from ..regions import Region
from .joins import joined, places, shifted
from .plan import Partition, pieces

HOST = "cpu"


class Visit(NamedTuple):
    """What happens at one node: its pieces, the last earlier GPU piece its CPU piece waits for (0: none), and bytes that change sides.

    `started` numbers this node's own GPU piece (0: none). Where the two memories are not one, bytes are uploaded and downloaded; where
    they are one, the GPU's and the CPU's piece each read bytes that the other side wrote (`crossed_gpu`, `crossed_cpu`).
    """

    node: Node
    pieces: tuple[tuple[str, Region], ...]
    started: int
    waits_for: int
    upload_bytes: int
    download_bytes: int
    crossed_gpu: int = 0
    crossed_cpu: int = 0


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
    """Who wrote which region so far; `shared`: the two memories are one; `joined`: the Concat nodes that need no work.

    Where both sides computed the same rows, each reads its own.
    """

    __slots__ = ("shared", "joined", "writes", "started", "waited", "moved")

    def __init__(self, shared: bool = True, joined: frozenset[Node] = frozenset()) -> None:
        self.shared, self.joined = shared, joined
        self.writes: dict[Value, tuple[Write, ...]] = {}
        self.started = 0
        self.waited = 0
        self.moved: set[tuple[Value, str, Region]] = set()

    def copy(self) -> Flow:
        other = Flow(self.shared, self.joined)
        other.writes, other.started, other.waited, other.moved = dict(self.writes), self.started, self.waited, set(self.moved)
        return other

    def visit(self, node: Node, parts: Sequence[tuple[str, Region]], reach: Sequence[Access]) -> Visit:
        """Records the node's pieces (`reach[i]` is the access of parts[i]) and says what has to happen for them."""
        if node in self.joined:
            self._join(node)
            return Visit(node, (), 0, 0, 0, 0)
        if reach and reach[0].view:
            waits_for, down = self._alias(node)
            self.waited = max(self.waited, waits_for)
            return Visit(node, (), 0, waits_for, 0, down)
        up = down = crossed_gpu = crossed_cpu = waits_for = number = 0
        written: list[tuple[Value, Write]] = []
        for (device, _), touched in zip(parts, reach):
            if device == HOST:
                need, nbytes, crossed = self._host_needs(touched)
                waits_for, down, crossed_cpu = max(waits_for, need), down + nbytes, crossed_cpu + crossed
                written += [(v, Write(r, 0)) for v, r in touched.writes]
            else:
                number = self.started = self.started + 1
                nbytes, crossed = self._gpu_needs(touched)
                up, crossed_gpu = up + nbytes, crossed_gpu + crossed
                written += [(v, Write(r, number)) for v, r in touched.writes]
        self.waited = max(self.waited, waits_for)
        for value, write in written:
            self.writes[value] = (*self.writes.get(value, ()), write)
        return Visit(node, tuple(parts), number, waits_for, up, down, crossed_gpu, crossed_cpu)

    def _host_needs(self, touched: Access) -> tuple[int, int, int]:
        """The last GPU piece to wait for, the bytes to fetch, and those that the GPU wrote."""
        last = nbytes = crossed = 0
        for value, region in touched.reads:
            known = self.writes.get(value, ())
            for write in known:
                if write.number and _meet(write.region, region) and not _own(known, write, region, host=True):
                    common = write.region & region
                    last = max(last, write.number if write.number > self.waited else 0)
                    if self.shared:
                        crossed += common.size * value.dtype.itemsize
                    else:
                        nbytes += self._moved(value, HOST, common)
        return last, nbytes, crossed

    def _gpu_needs(self, touched: Access) -> tuple[int, int]:
        """Bytes to bring from the host, and those that it wrote: what its pieces made, and graph inputs."""
        nbytes = crossed = 0
        for value, region in touched.reads:
            known = self.writes.get(value) or (Write(Region.whole(value.shape), 0),)
            for write in known:
                if not write.number and _meet(write.region, region) and not _own(known, write, region, host=False):
                    common = write.region & region
                    if self.shared:
                        crossed += common.size * value.dtype.itemsize
                    else:
                        nbytes += self._moved(value, "gpu", common)
        return nbytes, crossed

    def _join(self, node: Node) -> None:
        """What is known of each input is known of its place in the output."""
        self.writes[node.output] = tuple(Write(shifted(write.region, place), write.number) for value, place in places(node).items()
                                         for write in self.writes.get(value, ()))

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
        nbytes = self._host_needs(Access(read, ()))[1]
        return (self.started if self.waited < self.started else 0), nbytes


def _own(known: Sequence[Write], write: Write, region: Region, host: bool) -> bool:
    """Whether the reader's own side wrote what it reads of that write of the other side, too."""
    return any((not w.number) == host and w.region.covers(write.region & region) for w in known if w is not write and _meet(w.region, write.region))


def _meet(one: Region, other: Region) -> bool:
    """Whether two regions have an element in common."""
    for (a, b), (c, d) in zip(one, other):
        if a >= d or c >= b:
            return False
    return True


def chains(graph: Graph, partitions: Sequence[Partition], reach: Callable[[Node, Region], Access] = access) -> tuple[tuple[str, ...], ...]:
    """The names of the nodes between two waits, in order: every node is in exactly one chain. `reach`: tells accesses, where some are known."""
    flow, found = Flow(joined=joined(graph)), [[]]  # type: ignore[var-annotated]
    for node, partition in zip(graph.nodes, partitions):
        parts = pieces(node, partition)
        visit = flow.visit(node, parts, [reach(node, r) for _, r in parts])
        if visit.waits_for and found[-1]:
            found.append([])
        found[-1].append(node.name)
    return tuple(tuple(c) for c in found if c)

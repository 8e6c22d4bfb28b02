"""Where every activation lives: one arena, planned from the schedule's lifetimes.

A view shares memory with what it views, and the inputs of a joined Concat lie in its output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..graph.ir import Graph, Value
from ..partition.joins import places
from ..regions import Region
from .schedule import Alias, Dynamic, Join, Move, Start, Step, Wait, written

#: Cache lines are 64 bytes on the boards we know; OpenCL's largest vector needs 128.
ALIGNMENT_BYTES = 128
#: Memory that an asynchronous piece uses is free again when so many later pieces of its device were started: the host may be that
#: far ahead without waiting (`hazards.guard`), and what is written next lies in memory that is still in a cache.
BEHIND = 1


@dataclass(frozen=True)
class MemoryPlan:
    """Byte offsets into an arena of `nbytes`, for every static value that is no constant."""

    offsets: Mapping[Value, int]
    nbytes: int


@dataclass
class _Life:
    """One piece of memory: the values in it with their offsets (bytes), and the first and last step at which somebody may be at it.

    `soon`: the last step for what is queued behind those who are at it. `users`: asynchronous devices with pieces at it. `writers`: who writes.
    """

    values: list[tuple[Value, int]]
    nbytes: int
    first: int
    last: int
    soon: int
    users: set[str] = field(default_factory=set)
    writers: set[str] = field(default_factory=set)

    def until(self, later: _Life, early: bool) -> int:
        """The last step at which `later` may not lie in the same bytes. A device's own pieces run in order and need no wait between them."""
        return self.soon if early or (len(self.users) == 1 and self.users == later.writers) else self.last


def plan_memory(graph: Graph, steps: Sequence[Step], early: bool = True) -> MemoryPlan:
    """Offsets such that no two values that live at the same time overlap: largest first, lowest gap (as in TensorFlow Lite's planner).

    A value lives from the first step that touches it to the last; what an asynchronous piece touches lives until that piece was waited
    for. `early`: or until `BEHIND` later ones were started; then `hazards.guard` must be asked, and may put in waits. Without it, only what
    the same device writes next may lie there before that wait. Graph inputs live from the start; outputs to the end.
    """
    lives = _lifetimes(graph, steps)
    placed: list[tuple[int, _Life]] = []
    offsets: dict[Value, int] = {}
    total = 0
    for life in sorted(lives, key=lambda g: (-g.nbytes, g.first)):
        busy = sorted((at, at + other.nbytes) for at, other in placed
                      if other.first <= life.until(other, early) and life.first <= other.until(life, early))
        offset = 0
        for start, stop in busy:
            if offset + life.nbytes <= start:
                break
            offset = max(offset, stop)
        placed.append((offset, life))
        total = max(total, offset + life.nbytes)
        offsets.update((value, offset + inside) for value, inside in life.values)
    return MemoryPlan(offsets, total)


def _lifetimes(graph: Graph, steps: Sequence[Step]) -> list[_Life]:
    lives: dict[Value, _Life] = {}
    inside = _joined_offsets(steps)
    held: dict[Value, int] = {}
    pending: dict[str, list[tuple[int, _Life]]] = {}  # pieces that nobody waited for yet
    queued: dict[str, list[tuple[int, _Life]]] = {}  # ... and those with fewer than `BEHIND` later ones

    def touch(value: Value | None, at: int) -> _Life | None:
        if value is None or value.is_constant or not value.type.is_static:
            return None
        life = lives.get(value)
        if life is None:
            root, offset = inside.get(value, (value, 0))
            life = lives.get(root)
            if life is None:
                size = -(-max(1, root.type.nbytes) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
                life = lives[root] = _Life([(root, 0)], size, at, at, at)
                held[root] = 0
            if value is not root:
                lives[value], held[value] = life, offset
                life.values.append((value, offset))
        life.last = life.soon = max(life.last, at)
        return life

    def release(left: dict[str, list[tuple[int, _Life]]], device: str, index: int, at: int) -> None:
        """What the pieces up to `index` touched lives until now, and no longer on their account."""
        for started, life in left.get(device, ()):
            if started <= index:
                life.last = max(life.last, at)
                life.soon = max(life.soon, at) if left is queued else life.soon
        left[device] = [(i, life) for i, life in left.get(device, ()) if i > index]

    def pend(device: str, index: int, touched: Sequence[_Life | None]) -> None:
        """That piece of an asynchronous device is at them until it is waited for."""
        for life in touched:
            if life is not None:
                pending.setdefault(device, []).append((index, life))
                queued.setdefault(device, []).append((index, life))
                life.users.add(device)

    for value in graph.inputs:
        touch(value, -1)
    for at, step in enumerate(steps):
        match step:
            case Start(node=node, device=device, index=index):
                touched = [touch(v, at) for v in (*node.inputs, *node.outputs)]
                for value in (*graph.node(node.name).inputs, *graph.node(node.name).outputs):
                    touch(value, at)  # the host's copy, where the device has its own: a check reads it
                if index >= 0:
                    release(queued, device, index - BEHIND, at)
                    pend(device, index, touched)
            case Dynamic(node=node):
                for value in (*node.inputs, *node.outputs):
                    touch(value, at)
            case Alias(node=node):
                source = touch(node.inputs[0], at)
                if source is None:
                    touch(node.output, at)
                else:
                    held[node.output] = held[node.inputs[0]]
                    source.values.append((node.output, held[node.output]))
                    lives[node.output] = source
            case Join(node=node):
                touch(node.output, at)
            case Move(value=value, device=device, index=index):
                life = touch(value, at)
                if index >= 0:
                    pend(device, index, [life])
            case Wait(device=device, index=index):
                release(queued, device, index, at)
                release(pending, device, index, at)
        for writer, value in written(step):
            if value in lives:
                lives[value].writers.add(writer)
    for device in pending:
        release(queued, device, len(steps), len(steps))
        release(pending, device, len(steps), len(steps))
    for value in graph.outputs:
        touch(value, len(steps))
    return list({id(life): life for life in lives.values()}.values())


def _joined_offsets(steps: Sequence[Step]) -> dict[Value, tuple[Value, int]]:
    """Each value that lies inside another: (the outermost one, its offset there in bytes)."""
    direct: dict[Value, tuple[Value, int]] = {}
    for step in steps:
        if isinstance(step, Join):
            whole = Region.whole(step.node.output.shape)
            for value, place in places(step.node).items():
                behind = 0
                for mine, all_of in zip(place, whole):
                    behind = behind * all_of.size + mine.start
                direct[value] = (step.node.output, behind * value.dtype.itemsize)
    found = {}
    for value in direct:
        outer, offset = direct[value]
        while outer in direct:
            outer, more = direct[outer]
            offset += more
        found[value] = (outer, offset)
    return found

"""Where every activation lives: one arena, planned from the schedule's lifetimes. Views share memory with what they view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..graph.ir import Graph, Value
from .schedule import Alias, Dynamic, Move, Start, Step, Wait

#: Cache lines are 64 bytes on the boards we know; OpenCL's largest vector needs 128.
ALIGNMENT_BYTES = 128


@dataclass(frozen=True)
class MemoryPlan:
    """Byte offsets into an arena of `nbytes`, for every static value that is no constant."""

    offsets: Mapping[Value, int]
    nbytes: int


@dataclass
class _Life:
    values: list[Value]
    nbytes: int
    first: int
    last: int


def plan_memory(graph: Graph, steps: Sequence[Step]) -> MemoryPlan:
    """Offsets such that no two values that live at the same time overlap: largest first, lowest gap (as in TensorFlow Lite's planner).

    A value lives from the first step that touches it to the last; what an asynchronous piece touches lives until that piece was waited for.
    Graph inputs live from the start; outputs to the end.
    """
    lives = _lifetimes(graph, steps)
    placed: list[tuple[int, _Life]] = []
    offsets: dict[Value, int] = {}
    total = 0
    for life in sorted(lives, key=lambda g: (-g.nbytes, g.first)):
        busy = sorted((at, at + other.nbytes) for at, other in placed if other.first <= life.last and life.first <= other.last)
        offset = 0
        for start, stop in busy:
            if offset + life.nbytes <= start:
                break
            offset = max(offset, stop)
        placed.append((offset, life))
        total = max(total, offset + life.nbytes)
        offsets.update(dict.fromkeys(life.values, offset))
    return MemoryPlan(offsets, total)


def _lifetimes(graph: Graph, steps: Sequence[Step]) -> list[_Life]:
    lives: dict[Value, _Life] = {}
    pending: dict[str, list[tuple[int, _Life]]] = {}

    def touch(value: Value | None, at: int) -> _Life | None:
        if value is None or value.is_constant or not value.type.is_static:
            return None
        life = lives.get(value)
        if life is None:
            size = -(-max(1, value.type.nbytes) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            life = lives[value] = _Life([value], size, at, at)
        life.last = max(life.last, at)
        return life

    for value in graph.inputs:
        touch(value, -1)
    for at, step in enumerate(steps):
        match step:
            case Start(node=node, device=device, index=index):
                touched = [touch(v, at) for v in (*node.inputs, *node.outputs)]
                if index >= 0:
                    pending.setdefault(device, []).extend((index, life) for life in touched if life is not None)
            case Dynamic(node=node):
                for value in (*node.inputs, *node.outputs):
                    touch(value, at)
            case Alias(node=node):
                source = touch(node.inputs[0], at)
                if source is None:
                    touch(node.output, at)
                else:
                    source.values.append(node.output)
                    lives[node.output] = source
            case Move(value=value, device=device, index=index):
                life = touch(value, at)
                if index >= 0 and life is not None:
                    pending.setdefault(device, []).append((index, life))
            case Wait(device=device, index=index):
                for started, life in pending.get(device, ()):
                    if started <= index:
                        life.last = max(life.last, at)
                pending[device] = [(i, life) for i, life in pending.get(device, ()) if i > index]
    for left in pending.values():
        for _, life in left:
            life.last = len(steps)
    for value in graph.outputs:
        touch(value, len(steps))
    return list({id(life): life for life in lives.values()}.values())

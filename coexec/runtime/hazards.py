"""Waits that keep the host from writing into memory that an asynchronous piece still uses for another value.

The memory planner lets memory be used again soon after the last piece that needs it was started (`memory.BEHIND`), not only when
somebody waited for that piece: a small arena stays in the caches. On one in-order queue that is safe by itself. The host, and pieces of
other queues, are held back here, by a wait that usually finds the piece done long ago. A pure function of steps and memory, like `schedule`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..graph.ir import Value
from .memory import MemoryPlan
from .schedule import Alias, Flush, Join, Move, Start, Step, Wait, written


def guard(steps: Sequence[Step], memory: MemoryPlan) -> list[Step]:
    """The steps with those waits put in, and `Start.after` counted anew."""
    owner = owners(steps)
    pending: dict[str, list[tuple[int, int, int, Value]]] = {}  # device -> (piece, first byte, last byte + 1, whose), in order
    out: list[Step] = []
    moved_to: list[int] = []  # where each step lies now
    flushed = True

    def span(value: Value) -> tuple[int, int, Value]:
        at = memory.offsets[value]
        return at, at + value.type.nbytes, owner.get(value, value)

    def touches(device: str, index: int, values: Sequence[Value | None]) -> None:
        pending.setdefault(device, []).extend((index, *span(v)) for v in values if v in memory.offsets)

    for step in steps:
        for writer, value in written(step):
            if value not in memory.offsets:
                continue
            start, stop, whose = span(value)
            for device, uses in pending.items():
                if device == writer:
                    continue
                last = max((i for i, a, b, other in uses if a < stop and start < b and other is not whose), default=0)
                if last:
                    out += [] if flushed else [Flush(device)]
                    out.append(Wait(device, last))
                    pending[device] = [use for use in uses if use[0] > last]
        moved_to.append(len(out))
        match step:
            case Start(node=node, device=device, index=index, after=after) if index >= 0:
                touches(device, index, (*node.inputs, *node.outputs))
                flushed = False
                out.append(replace(step, after=moved_to[after]) if after >= 0 else step)
                continue
            case Move(value=value, device=device, index=index) if index >= 0:
                touches(device, index, (value,))
            case Wait(device=device, index=index):
                pending[device] = [use for use in pending.get(device, ()) if use[0] > index]
            case Flush():
                flushed = True
        out.append(step)
    return out


def owners(steps: Sequence[Step]) -> dict[Value, Value]:
    """Whose memory a value lies in, where it is not its own: pieces of one value are told apart by `schedule` itself."""
    root: dict[Value, Value] = {}
    for step in steps:
        match step:
            case Alias(node=node) if not node.inputs[0].is_constant:
                root[node.output] = node.inputs[0]
            case Join(node=node):
                root.update({v: node.output for v in node.inputs if v is not None and v is not node.output})
    found = {}
    for value in root:
        outer = value
        while outer in root:
            outer = root[outer]
        found[value] = outer
    return found

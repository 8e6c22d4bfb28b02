"""Pieces of asynchronous devices started as early as what they read allows, so that a device's queue does not run empty.

`schedule` starts a node's piece on the GPU when the host comes to that node. Where the piece needs nothing that the host computes in
between, it can be enqueued behind the piece before it: the driver's thread, or the GPU, then goes from one to the next without being
woken, and neither half waits for a slow node of the other. A pure function of the steps; memory is planned for the order it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..graph.ir import Graph, Value
from .hazards import owners
from .schedule import Alias, Flush, Join, Move, Start, Step, Wait

#: How many pieces may be in the queue beyond those whose turn has come. One keeps the queue filled; with more, the memory of pieces not yet
#: done is wanted again sooner (`hazards.guard`), and three small networks were no faster with two, three or eight.
AHEAD = 1


def hoist(graph: Graph, steps: Sequence[Step], ahead: int = AHEAD) -> list[Step]:
    """The same steps, the asynchronous pieces (with the moves that feed them) up to `ahead` pieces early; `Start.after` is counted anew."""
    groups, needs = _pieces(graph, steps)
    turn = {id(step): n for n, group in enumerate(groups) for step in group}
    out: list[Step] = []
    at_now: dict[int, int] = {}  # where a step of the old order lies in the new one
    unflushed: dict[str, None] = {}
    sent = begun = 0

    def send() -> None:
        nonlocal sent
        for step in groups[sent]:
            out.append(replace(step, after=at_now.get(step.after, -1)) if isinstance(step, Start) else step)
            unflushed[step.device] = None  # type: ignore[union-attr]
        sent += 1

    for at, step in enumerate(steps):
        piece = turn.get(id(step))
        if piece is not None:
            if piece == sent:
                send()
            begun = max(begun, piece + 1)
        elif not isinstance(step, Flush):
            if isinstance(step, Wait) or isinstance(step, Start):
                out += map(Flush, unflushed)
                unflushed.clear()
            at_now[at] = len(out)
            out.append(step)
        while sent < len(groups) and sent < begun + ahead and needs[sent] <= at:
            send()
    out += map(Flush, unflushed)
    return out


def _pieces(graph: Graph, steps: Sequence[Step]) -> tuple[list[list[Step]], list[int]]:
    """The asynchronous pieces in order, each with the moves that belong to it, and by which step all that one needs is there."""
    groups: list[list[Step]] = []
    needs: list[int] = []
    moves: list[Move] = []
    views: dict[Value, int] = {}  # since when it is known whose memory they are
    whole: dict[Value, int] = {}  # since when all of a value is computed
    brought: dict[Value, int] = {}  # since when the host has what it was last brought of a value: it may be sent on to the device
    owner = owners(steps)
    last = {step.node.name: at for at, step in enumerate(steps) if isinstance(step, Start)}
    for at, step in enumerate(steps):
        match step:
            case Alias(node=node):
                views[node.output] = whole[node.output] = at
            case Join(node=node):
                whole[node.output] = at
            case Move(value=value, to_host=True):
                brought[owner.get(value, value)] = at
            case Move():
                moves.append(step)
            case Start(node=node, index=index, after=after):
                whole_node = graph.node(node.name)
                if index >= 0:
                    need = max([after, *(views[v] for v in node.inputs if v in views)])
                    if last[node.name] == at:  # the node can be checked now (`runtime.check`), from the host's copies of all that it reads
                        need = max([need, *(whole[v] for v in whole_node.inputs if v in whole)])
                    need = max([need, *(brought.get(owner.get(m.value, m.value), -1) for m in moves)])
                    groups.append([*moves, step])
                    needs.append(need)
                    moves = []
                whole.update((v, at) for v in whole_node.outputs if v is not None)
    return groups, needs

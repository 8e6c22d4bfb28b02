"""The schedule of a device that keeps in step with the host by counters: its work is enqueued ahead, and waits in its own queue.

`schedule` starts a piece of the GPU only when the host has finished all that stands before it, so that the GPU sleeps meanwhile.
Here pieces are started earlier, behind a gate where they need something of the host: what it computes, or memory that it still uses.
A pure function of the steps, like `schedule`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..graph.ir import Value
from .hazards import owners
from .memory import MemoryPlan
from .schedule import Alias, Dynamic, Flush, Move, Start, Step, Wait

#: How many pieces the device's queue is filled ahead of the host: enough that it never runs empty, few enough that the host soon begins.
AHEAD = 6


@dataclass(frozen=True, eq=False)
class Sync:
    """Device work: `heard` becomes `signal`, then the queue waits until `told` is at least `target`; 0 leaves that half out."""

    device: str
    signal: int = 0
    target: int = 0


@dataclass(frozen=True, eq=False)
class Stepping:
    """A piece of the device that does at its beginning what a Sync before it would. With `tells`, `heard` becomes its index once it is done."""

    start: Start
    signal: int = 0
    target: int = 0
    tells: bool = False


@dataclass(frozen=True, eq=False)
class Tell:
    """The host has come to `number`: `told` becomes that."""

    device: str
    number: int


@dataclass(frozen=True, eq=False)
class Hear:
    """The host waits until `heard` is at least `index`: that piece of the device, and every earlier one, is done."""

    device: str
    index: int


WovenStep = Step | Sync | Stepping | Tell | Hear


def weave(steps: Sequence[Step], memory: MemoryPlan, device: str, ahead: int = AHEAD,
          can_step: Callable[[Start], bool] = lambda start: False,
          can_tell: Callable[[Start], bool] = lambda start: False) -> list[WovenStep]:
    """The same work with the device's pieces started up to `ahead` pieces early, gates before them and signals behind them.

    Pieces that `can_step` keep themselves in step, and those that `can_tell` say themselves that they are done. Only for shared memory (moves are left out), and for one asynchronous device.
    """
    starts = [(at, s) for at, s in enumerate(steps) if isinstance(s, Start) and s.device == device]
    busy = _host_uses(steps, memory, device)
    needs = [max(step.after, busy[at]) for at, step in starts]
    waited = {s.index for s in steps if isinstance(s, Wait)}
    gates, last = [], -1
    for need in needs:
        gates.append(need if need > last else -1)
        last = max(last, need)
    numbers = {at: n for n, at in enumerate(sorted({g for g in gates if g >= 0}), 1)}

    stream: list[WovenStep] = []
    upto: list[int] = []  # how much of the stream must be enqueued for the n-th piece to be
    signalled: dict[int, int] = {}  # ... and for the host to hear of it
    signal = 0
    for (_, step), gate in zip(starts, gates):
        asked = signal or gate >= 0
        if signal:
            signalled[signal] = len(stream) + 1
        before = (signal, numbers.get(gate, 0))
        if asked and not can_step(step):
            stream.append(Sync(device, *before))
            before = (0, 0)
        tells = step.index in waited and can_tell(step)
        stream.append(Stepping(step, *before, tells) if tells or any(before) else step)
        upto.append(len(stream))
        if tells:
            signalled[step.index] = len(stream)
        signal = step.index if step.index in waited and not tells else 0
    if signal:
        stream.append(Sync(device, signal))
        signalled[signal] = len(stream)

    out: list[WovenStep] = []
    sent = begun = 0

    def send(upper: int) -> None:
        nonlocal sent
        if upper > sent:
            out.extend(stream[sent:upper])
            out.append(Flush(device))
            sent = upper

    if starts:
        send(upto[min(ahead, len(starts)) - 1])
    for at, step in enumerate(steps):
        match step:
            case Start(device=where) if where == device:
                send(upto[min(begun + ahead, len(starts) - 1)])
                begun += 1
            case Flush() | Move():
                pass
            case Wait(index=index):
                send(signalled[index])
                out.append(Hear(device, index))
            case _:
                out.append(step)
        if at in numbers:
            out.append(Tell(device, numbers[at]))
    send(len(stream))
    return out


def _host_uses(steps: Sequence[Step], memory: MemoryPlan, device: str) -> dict[int, int]:
    """For each piece of the device: the last earlier step by which the host touches other values in the memory that the piece writes."""
    owner = owners(steps)

    def span(value: Value) -> tuple[int, int]:
        at = memory.offsets[value]
        return at, at + value.type.nbytes

    used: dict[Value, tuple[int, int, Value, int]] = {}  # bytes, whose, the last step of the host
    found: dict[int, int] = {}
    for at, step in enumerate(steps):
        match step:
            case Start(node=node, device=where) if where == device:
                last = -1
                for value in node.outputs:
                    if value is not None and value in memory.offsets:
                        start, stop = span(value)
                        mine = owner.get(value, value)
                        last = max([last, *(when for a, b, whose, when in used.values() if a < stop and start < b and whose is not mine)])
                found[at] = last
            case Start(node=node) | Dynamic(node=node) | Alias(node=node):
                for value in (*node.inputs, *node.outputs):
                    if value is not None and value in memory.offsets:
                        used[value] = (*span(value), owner.get(value, value), at)
    return found

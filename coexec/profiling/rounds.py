"""Kernels timed as a run has them: in company. A dozen take turns on one queue, each with its input just written by another.

Repeated by itself, a kernel finds its weights, its output and its own code in the caches; in a network all but its input have been
driven out by the operators in between, and every piece takes longer.

What the caches hold must not depend on who the others are, else a second timing in other company says something else, of light operators
most of all. So a round begins with weights driven out of the last cache and activations in it, and before its turn each kernel's input is
written into a second-level cache that was filled with something else.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..devices.base import Device, Event, Kernel, TensorView
from ..devices.fusing import Stamp, fused
from ..devices.timed import Read, Timer, timed
from ..errors import DeviceError
from ..graph.ir import Node, TensorType, Value
from ..ops import op_for
from ..regions import Region
from .measure import Timing, random_array

#: Kernels that take turns: their weights and outputs are what drives one another's out of the caches.
COMPANY = 12
#: How often each is timed, and after how many seconds a round of slow ones ends with less. What a moment does to a dozen kernels lasts longer than
#: their round: more shapes tell more than more timings of the same.
COUNT, LIMIT_S = 6, 1.5
#: Kernels between two readings of the references, and how often those are run for one reading: whatever ran before, the last find the same in the
#: caches.
STRETCH, REFERENCE_RUNS = 3, 4
#: A kernel takes longer by about this power of what a reference does, shared by all references. Within a round no more need be known.
FOLLOWS = 0.9
#: How often they are run before a reading for which nothing else has just run.
WAKING_RUNS = 24
#: What a round took by the device's own clock must be at least and at most these shares of what it took by the wall's, give or take what
#: starting and waiting cost; else the clock is not believed.
BELIEVED, SLACK_NS, MOST_DOUBTS = (0.7, 1.02), 300_000, 5

#: Bytes that the reference that reads from far reads at least: as others, more than a core's caches hold.
SMALL_FAR = 2 << 20
#: Its name.
FAR = "far"

PAGE = 4096
#: Bytes of a board's last cache, where the system does not tell. Caches that keep what was used before, or take in only what a core's own let go,
#: hold out against reading as much as they hold: so many times as much is read, and at most so much.
SMALL_CACHE, TIMES, MOST_COLD = 4 << 20, 4, 128 << 20
#: Memory of activations is used again after about so many times as much as an operator reads and writes.
AGAIN = 4
#: The same of a core's own caches.
SMALL_OWN, LARGE_OWN = 512 << 10, 4 << 20

_now = time.perf_counter_ns


class NoClock(DeviceError):
    """A device whose kernels cannot be timed one by one on a queue: its clock is missing, or cannot be believed."""


class _Started(NamedTuple):
    """A command of a round on a queue: a kernel's turn, a reference (its number), or, neither, a touch."""

    event: Event
    read: Read
    turn: _Turn | None
    reference: int


#: Nanoseconds that each of a processor's reference kernels took.
Reading = tuple[float, ...]


@dataclass
class _Turn:
    """A kernel of a round: what writes its input, and the times of it, and of the references beside each."""

    kernel: Kernel
    touches: list[Kernel | Callable[[], object]]
    begun: Stamp = field(default_factory=Stamp)
    ended: Stamp = field(default_factory=Stamp)
    us: list[float] = field(default_factory=list)
    beside_ns: list[Reading] = field(default_factory=list)
    _actions: list[Callable[[], object]] | None = None

    def play(self) -> float:
        """The touches, then the kernel, as runs have them: without Python, and its threads awake, where that can be. Microseconds of the kernel."""
        if self._actions is None:
            touches = ((touch.start, touch.calls()) if isinstance(touch, Kernel) else (touch, None) for touch in self.touches)
            kernel = (self.begun, [self.begun]), (self.kernel.start, self.kernel.calls()), (self.ended, [self.ended])
            self._actions = fused((*touches, *kernel), least=1)
        for action in self._actions:
            action()
        return (self.ended.ns - self.begun.ns) / 1e3


class Round:
    """Pieces compiled on one queue of a device, to be timed in turns. A context manager.

    Entries that the device has no kernel for, or cannot build, are None in `turns`. trying: is told the index of each piece before it is
    compiled and first run, then -1. Raises NoClock where the device cannot be timed like that.
    """

    def __init__(self, device: Device, pieces: Sequence[tuple[Node, Region]], threads: int = 1, trying: Callable[[int], object] = lambda index: None):
        self.device, self._trying = device, trying
        self.buffers: list = []
        self.errors: dict[int, DeviceError] = {}
        self.doubts, self._flipped = 0, False
        self._other = _ones(2 * own_bytes() * team_of(device, threads))
        self.queue = device.queue(threads)
        try:
            moved = [sum(_nbytes(v) for v in (*n.inputs, *n.outputs) if v is not None and not v.is_constant) for n, _ in pieces]
            self.arena = device.allocate(max([1, *moved]))
            self.buffers.append(self.arena)
            self._warm = max((nbytes for nbytes in moved if nbytes <= last_bytes() // AGAIN), default=0)
            self.timer: Timer | None = timed(self.queue) if device.asynchronous else None
            self._shares = timed(self.queue) if threads > 1 and not device.asynchronous else None
            if device.asynchronous and (self.timer is None or not self.timer.own_clock):
                raise NoClock("the device has no clock of its own to time kernels by", where=device.facts.name)
            rng = np.random.default_rng(0)
            self._by_kernels = device.asynchronous or threads > 1  # whoever reads it next writes it
            self._fill = self._filler()
            nodes = reference_nodes(team_of(device, threads))
            self.references = [self._reference_of(node) for node in nodes if device.declines(node) is None]
            self.turns = [self._made(i, node, region, rng) for i, (node, region) in enumerate(pieces)]
            self._trying(-1)
            self.queue.seal()
            self._scratch = self.queue.host_scratch()
        except BaseException:
            self.close()
            raise

    def _made(self, index: int, node: Node, region: Region, rng: np.random.Generator) -> _Turn | None:
        if self.device.declines(node) is not None:
            return None
        self._trying(index)
        try:
            made = self._turn(node, region, rng)
            self.queue.seal()
            for touch in made.touches:  # memory may hold anything, and an index that is none must not be read
                touch.start().wait() if isinstance(touch, Kernel) else touch()
            made.kernel.start().wait()  # by itself: if it never ends, or ends the process, it is known which one it was
            return made
        except DeviceError as error:  # one kernel that a driver cannot build must not cost the others
            self.errors[index] = error
            return None

    def _turn(self, node: Node, region: Region, rng: np.random.Generator) -> _Turn:
        given = [v for v in node.inputs if v is not None and not v.is_constant]
        places = self._places([_nbytes(v) for v in given], [_nbytes(v) for v in node.outputs if v is not None])
        where = dict(zip(given, places[0]))
        inputs = [v if v is None or v.is_constant else self._view(v, where[v]) for v in node.inputs]
        outputs, at = [], iter(places[1])
        for value in node.outputs:
            outputs.append(None if value is None else self._view(value, next(at)))
        kernel = self.queue.compile(node, region, inputs, outputs)
        touches = [self._touch(view, read, rng) for view, read in zip(inputs, op_for(node).regions_read(node, region))
                   if isinstance(view, TensorView) and read is not None and read.size]
        return _Turn(kernel, [self._fill, *touches[::-1]])  # the first input is what the operator before has just made

    def _reference_of(self, node: Node) -> Kernel:
        """A reference kernel, always at the same places of a page: how input and output lie to each other changes what stores take."""
        source, target = node.inputs[0], node.output
        buffer = self.device.allocate(_pages(source) + _pages(target) + PAGE)
        self.buffers.append(buffer)
        at = -buffer.host.ctypes.data % PAGE if buffer.shared else 0
        views = [TensorView.contiguous(buffer, v.dtype, Region.whole(v.shape), offset) for v, offset in ((source, at), (target, at + _pages(source)))]
        views[0].array[...] = 1.0 if node.name == FAR else random_array(source.type, np.random.default_rng(2))
        if not buffer.shared:
            self.queue.upload(views[0]).wait()
        return self.queue.compile(node, Region.whole(target.shape), [views[0], *node.inputs[1:]], [views[1]])

    def _filler(self) -> Kernel | Callable[[], object]:
        """Fills the cores' own caches with what no kernel of the round reads or writes."""
        if not self._by_kernels:
            return self._other.max
        kind = TensorType(np.dtype(np.float32), (1, 1, 1, self._other.size // 2))
        relu = Node("Relu", (Value("x", kind),), (Value("y", kind),), name="fill")
        if self.device.declines(relu) is not None:
            return _nothing
        views = []
        for _ in range(2):
            self.buffers.append(self.device.allocate(kind.nbytes))
            views.append(TensorView.contiguous(self.buffers[-1], kind.dtype, Region.whole(kind.shape)))
        return self.queue.compile(relu, Region.whole(kind.shape), views[:1], views[1:])

    def _places(self, inputs: Sequence[int], outputs: Sequence[int]) -> tuple[list[int], list[int]]:
        """Where in the arena inputs and outputs lie, at its two ends in turns: one kernel's output is where the next one's input is."""
        self._flipped = not self._flipped
        placed = []
        for sizes, at_top in ((inputs, self._flipped), (outputs, not self._flipped)):
            ends = np.cumsum(sizes).tolist()
            placed.append([self.arena.nbytes - end if at_top else end - size for size, end in zip(sizes, ends)])
        return placed[0], placed[1]

    def _view(self, value: Value, offset: int) -> TensorView:
        return TensorView.contiguous(self.arena, value.dtype, Region.whole(value.shape), offset)

    def _touch(self, view: TensorView, read: Region, rng: np.random.Generator) -> Kernel | Callable[[], object]:
        """Writes what a kernel reads: on the processor that reads it next, where that can be done."""
        made = self.device.allocate(max(1, view.region.size * view.dtype.itemsize))
        self.buffers.append(made)
        spare = TensorView.contiguous(made, view.dtype, view.region)
        spare.array[...] = random_array(TensorType(view.dtype, view.shape), rng)
        if not made.shared:
            np.copyto(view.array, spare.array)
            self.queue.upload(spare).wait()
            self.queue.upload(view).wait()
        source, target = (_alone(v.sub(read)) for v in (spare, view))
        if self._by_kernels:
            kind = TensorType(view.dtype, target.shape)
            relu = Node("Relu", (Value("x", kind),), (Value("y", kind),), name="touch")
            if view.dtype == np.float32 and self.device.declines(relu) is None:
                return self.queue.compile(relu, target.region, [source], [target])
            if not made.shared:
                return _nothing
        return partial(np.copyto, target.array, source.array)

    def time(self, count: int = COUNT, limit_s: float = LIMIT_S) -> list[Timing | None]:
        """Microseconds of each entry, timed so often, or, where that takes longer than `limit_s` seconds, at least once.

        Raises NoClock where the device's clock told nothing that could be believed.
        """
        live = [t for t in self.turns if t is not None]
        for turn in live:
            turn.us, turn.beside_ns = [], []
        limit = _now() + int(1e9 * limit_s)
        self.queue.begin_run()
        try:
            play = self._play if self.timer is None else self._play_queue
            for number in range(count + MOST_DOUBTS + 2):
                wanted = any(len(t.us) < count for t in live)
                if number > 1 and (not wanted or _now() > limit and all(t.us for t in live)):  # the first does not count
                    break
                play(live, number > 0)
        finally:
            self.queue.end_run()
        if not all(t.us for t in live):
            raise NoClock("the device's clock says nothing", where=self.device.facts.name)
        return [None if t is None else _timing(t) for t in self.turns]

    def _sweep(self) -> None:
        """Reads so much that no weights are left in the caches: a network's are long gone when they are used again. Its activations are not:
        their memory is used again and again; but for those that are so large that the caches have seen too much else until then. Nor is what kernels
        use beside: without, the first of a round that needs so much, and no other, has it from memory.
        """
        sweep()
        for scratch in self._scratch:
            scratch.max(initial=0)
        if self.arena.shared and self._warm:
            self.arena.host[:self._warm].max()
            self.arena.host[-self._warm:].max()

    def _play(self, turns: Sequence[_Turn], count: bool) -> None:
        """One round of a device that returns when the work is done."""
        self._sweep()
        before = self._reference()
        for at in range(0, len(turns), STRETCH):
            stretch = turns[at:at + STRETCH]
            times = [turn.play() for turn in stretch]
            after = self._reference()
            _note(stretch, times, before, after, count)
            before = after

    def _reference(self) -> Reading:
        times = []
        for kernel in self.references:
            found = []
            for _ in range(REFERENCE_RUNS):
                begun = _now()
                read = self._shares.start(kernel)[1] if self._shares is not None else kernel.start()
                took = _now() - begun
                # Of a team the slowest share: how long waking its threads takes says nothing of the cores.
                found.append(max((s.stop_ns - s.start_ns for s in read()), default=took) if self._shares is not None else took)
            times.append(float(min(found)))
        return tuple(times)

    def reading(self) -> Reading:
        """What moment this is, by the references alone: between runs of something else.

        A core that has slept is slow at first: so much is run before what counts. Then its caches are filled as before a kernel's turn, else all that
        the references read would lie in them for once.
        """
        self.queue.begin_run()
        try:
            self._wake()
            return self._reference() if self.timer is None else self._reference_by_events(self.timer)
        finally:
            self.queue.end_run()

    def _wake(self) -> None:
        for kernel in self.references * (WAKING_RUNS if self._by_kernels else 0):  # the host's own core is awake
            kernel.start()
        if isinstance(self._fill, Kernel):
            self._fill.start()
        else:
            self._fill()

    def _reference_by_events(self, timer: Timer) -> Reading:
        """`_reference` of a device that works through a queue."""
        tape = [(index, *timer.start(kernel)) for index, kernel in enumerate(self.references) for _ in range(REFERENCE_RUNS)]
        self.queue.flush()
        found = [np.inf] * len(self.references)
        for _, event, _ in tape[-1:]:
            event.wait()
        for index, _, read in tape:
            if told := read():
                found[index] = min(found[index], float(told[0].stop_ns - told[0].start_ns))
        return tuple(found)

    def _play_queue(self, turns: Sequence[_Turn], count: bool) -> None:
        """One round of a device that works through a queue: all is started at once, and its own clock tells, beside the wall's."""
        self._sweep()
        tape: list[_Started] = []
        begun = _now()

        def start(kernel: Kernel, turn: _Turn | None = None, reference: int = -1) -> None:
            event, read = self.timer.start(kernel)  # type: ignore[union-attr]
            tape.append(_Started(event, read, turn, reference))

        def read_reference() -> None:
            for index, kernel in enumerate(self.references):
                for _ in range(REFERENCE_RUNS):
                    start(kernel, reference=index)

        read_reference()
        for at in range(0, len(turns), STRETCH):
            for turn in turns[at:at + STRETCH]:
                for touch in turn.touches:
                    start(touch) if isinstance(touch, Kernel) else touch()
                start(turn.kernel, turn)
            read_reference()
        sent = _now()
        self.queue.flush()
        tape[-1].event.wait()
        done = _now()
        self._told(tape, done - sent, done - begun, count)

    def _told(self, tape: Sequence[_Started], least_ns: int, most_ns: int, count: bool) -> None:
        """What the device's clock says of a round. A kernel lasts from its start to its end, and as long as it usually takes to go on to it.

        By the wall, least_ns went by since all was sent, most_ns since the first was started. Raises NoClock where the clock cannot be
        believed.
        """
        times = [started.read() for started in tape]
        if not all(times):
            raise NoClock("the device's clock says nothing", where=self.device.facts.name)
        spans = [(found[0].start_ns, found[0].stop_ns) for found in times]
        told = spans[-1][1] - spans[0][0]
        if not BELIEVED[0] * least_ns - SLACK_NS <= told <= BELIEVED[1] * most_ns or any(b < a for (_, a), (b, _) in zip(spans, spans[1:])):
            self.doubts += 1  # a thread that was woken late looks like that too, now and then
            if self.doubts > MOST_DOUBTS:
                raise NoClock("the device's clock disagrees with the wall's", where=self.device.facts.name,
                              found=f"{told / 1e3:.0f} us", expected=f"{least_ns / 1e3:.0f} to {most_ns / 1e3:.0f} us")
            return
        self.doubts = max(0, self.doubts - 1)
        gaps = [begun - ended for (_, ended), (begun, _) in zip(spans, spans[1:])]
        usual_us = usual_gap_us(self.device.facts.name, float(np.percentile(gaps, 25)) / 1e3 if gaps else 0.0)
        groups: list[list[tuple[_Turn, float]]] = [[]]
        readings: list[list[float]] = []
        was_reference = False
        for started, (begun, ended) in zip(tape, spans):
            if started.turn is not None:
                groups[-1].append((started.turn, (ended - begun) / 1e3 + usual_us))
            elif started.reference >= 0:
                if not was_reference:
                    readings.append([np.inf] * len(self.references))
                    groups.append([])
                readings[-1][started.reference] = min(readings[-1][started.reference], float(ended - begun))
            was_reference = started.reference >= 0
        for group, before, after in zip(groups[1:], readings, readings[1:]):
            _note([t for t, _ in group], [us for _, us in group], before, after, count)

    def close(self) -> None:
        """Frees everything."""
        self.queue.close()
        for buffer in self.buffers:
            buffer.close()
        self.buffers = []

    def __enter__(self) -> Round:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


#: By device: what lay between two commands in the latest rounds of this process.
_gaps_us: dict[str, deque[float]] = {}
#: So many of them.
GAPS = 500


def usual_gap_us(device: str, latest_us: float) -> float:
    """What usually lies between two commands of a device, by the latest rounds, this one among them.

    It depends on what ran before: of one round it would make the same small kernel look as much longer or shorter as it takes itself.
    """
    _gaps_us.setdefault(device, deque(maxlen=GAPS)).append(latest_us)
    return float(np.median(_gaps_us[device]))


@cache
def _ones(nbytes: int) -> np.ndarray:
    """float32 to be read, never written: one for all rounds."""
    made = np.ones(nbytes // 4, np.float32)
    made.flags.writeable = False
    return made


def _nbytes(value: Value) -> int:
    """Of a value in the arena: whole cache lines."""
    return -(-max(1, value.type.nbytes) // 64) * 64


def _pages(value: Value) -> int:
    """Of a value in memory of its own: whole pages."""
    return -(-value.type.nbytes // PAGE) * PAGE


def _alone(view: TensorView) -> TensorView:
    """The same window, as the whole of a value."""
    return TensorView(view.buffer, view.dtype, Region.whole(view.shape), view.offset_bytes, view.strides)


def _nothing() -> None:
    """For inputs that only the host could write, into memory that is not the host's."""


def sweep() -> None:
    """Reads so much that nothing else is left in the caches."""
    _ones(cold_bytes()).max()


def cold_bytes() -> int:
    """What must be read to drive everything else out of the caches: some times as much as the last one holds."""
    return min(TIMES * last_bytes(), MOST_COLD)


def last_bytes() -> int:
    """The largest cache that the system tells of."""
    found = [SMALL_CACHE]
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with suppress(OSError, ValueError):
            found.append(int(size.read_text().strip().removesuffix("K")) << 10)
    return max(found)


def own_bytes() -> int:
    """The second-level cache of a core, as the system tells."""
    return int(min(max(SMALL_OWN, caches().get("l2_bytes", 0)), LARGE_OWN))


def caches() -> dict[str, float]:
    """Bytes of the first core's data caches, where the system tells: l1_bytes, l2_bytes."""
    found: dict[str, float] = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / n).read_text().strip() for n in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and level in ("1", "2") and size.endswith("K"):
            found[f"l{level}_bytes"] = float(int(size[:-1]) << 10)
    return found


def _note(turns: Sequence[_Turn], times: Sequence[float], before: Sequence[float], after: Sequence[float], count: bool) -> None:
    if count:
        beside = tuple((a + b) / 2 for a, b in zip(before, after))
        for turn, us in zip(turns, times):
            turn.us.append(us)
            turn.beside_ns.append(beside)


def _timing(turn: _Turn) -> Timing:
    """The median of a kernel's times, each brought to the round's usual moment by the references beside it."""
    us, beside = np.array(turn.us), np.array(turn.beside_ns)
    with np.errstate(invalid="ignore"):  # a reference of which nothing was told is infinite throughout
        usual = np.median(beside, axis=0)
        moment = np.nan_to_num(beside / usual, nan=1.0, posinf=1.0)
    us = us / np.prod(moment ** (FOLLOWS / max(1, beside.shape[1])), axis=1)
    low, quarter, median, high = np.percentile(us, [10, 25, 50, 75])
    return Timing(float(median), float(high - quarter), len(us), float(low), tuple(usual.tolist()))


def team_of(device: Device, threads: int) -> int:
    """Of how many threads the reference kernels are to tell: a GPU's are the same whatever the CPU beside it has."""
    return 1 if device.asynchronous else threads


def reference_nodes(threads: int = 1) -> list[Node]:
    """What tells the moment: one that reads from far, one that stores much, one that computes much; the latter two small enough for a core's own
    caches.

    Several threads have more to compute: they wait for Python's lock when they are done. And more to read: each reads a share, which its own caches
    must not hold either; near to what they do hold, where the pages happen to lie would tell.
    """
    edge = math.isqrt(max(SMALL_FAR, 2 * own_bytes()) * threads // 4 // 32)
    planes, means = (TensorType(np.dtype(np.float32), (1, 32, edge, edge)) for edge in (edge, 1))
    line = TensorType(np.dtype(np.float32), (1, 1, 1, 32 << 10))
    square = TensorType(np.dtype(np.float32), (96 if threads == 1 else 288,) * 2)
    return [Node("GlobalAveragePool", (Value("x", planes),), (Value("y", means),), name=FAR),
            Node("Relu", (Value("x", line),), (Value("y", line),), name="reference"),
            Node("MatMul", (Value("a", square), Value("w", square, random_array(square, np.random.default_rng(1)))), (Value("y", square),),
                 name="reference")]

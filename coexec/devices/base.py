"""The device contract. A Device is what the machine has; a Queue is one session's use of it.

A session allocates one arena through its GPU (memory that both processors can address), hands each queue the nodes' pieces to
compile, seals the queues (scratch memory is allocated, arguments are bound), and from then on only starts kernels and waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..graph.ir import Graph, Node, Value
from ..partition.plan import Plan
from ..regions import Region
from .cores import Within
from .pages import touched_bytes


class Buffer(ABC):
    """Memory that the host addresses as `host` (uint8, 64-byte aligned) and a device through its own handle.

    `shared` is True where both see one allocation at any time; otherwise regions must be moved by `Queue.upload` and `Queue.download`.
    """

    nbytes: int
    host: np.ndarray
    shared: bool = True

    @property
    def copies(self) -> bool:
        """True where a move copies bytes; False where there is nothing to move, or one allocation is handed over."""
        return not self.shared

    def resident_bytes(self) -> int | None:
        """Bytes of it that the system has handed out by now; None where nobody tells. Nothing may be running."""
        return touched_bytes(self.host.ctypes.data, self.host.nbytes)

    def close(self) -> None:
        """Frees the memory; nobody may use a view of it afterwards."""


class HostBuffer(Buffer):
    """Plain host memory, zeroed."""

    def __init__(self, nbytes: int):
        self.nbytes = nbytes
        raw = np.zeros(nbytes + 64, np.uint8)
        start = -raw.ctypes.data % 64
        self.host = raw[start:start + nbytes]


@dataclass(frozen=True, eq=False)
class TensorView:
    """Where `region` of a value lives: a strided window of a buffer. Strides are in elements, the offset in bytes."""

    buffer: Buffer
    dtype: np.dtype
    region: Region
    offset_bytes: int
    strides: tuple[int, ...]

    @classmethod
    def contiguous(cls, buffer: Buffer, dtype: np.dtype, region: Region, offset_bytes: int = 0) -> TensorView:
        """The C-contiguous layout of that region."""
        strides, step = [], 1
        for extent in reversed(region.shape):
            strides.append(step)
            step *= max(extent, 1)
        return cls(buffer, np.dtype(dtype), region, offset_bytes, tuple(reversed(strides)))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.region.shape

    @property
    def is_contiguous(self) -> bool:
        """True where the elements lie side by side in C order."""
        step = 1
        for extent, stride in zip(reversed(self.shape), reversed(self.strides)):
            if extent > 1 and stride != step:
                return False
            step *= extent
        return True

    def sub(self, region: Region) -> TensorView:
        """The part of this view that holds `region` (coordinates of the whole value)."""
        shift = sum((r.start - mine.start) * s for r, mine, s in zip(region, self.region, self.strides))
        return TensorView(self.buffer, self.dtype, region, self.offset_bytes + shift * self.dtype.itemsize, self.strides)

    @property
    def array(self) -> np.ndarray:
        """The host's window on it: no copy."""
        if not self.region.size:
            return np.empty(self.shape, self.dtype)
        strides = tuple(s * self.dtype.itemsize for s in self.strides)
        return np.ndarray(self.shape, self.dtype, self.buffer.host.data, self.offset_bytes, strides)


class Event(ABC):
    """Work that was started."""

    @abstractmethod
    def wait(self) -> None:
        """Returns once the work is done. Raises DeviceError where the driver reports a failure."""

    @property
    def done(self) -> bool:
        """True once the work is done; never blocks."""
        return True


class Done(Event):
    """The event of work that was finished before it was returned."""

    def wait(self) -> None:
        return None


DONE = Done()


class Call(NamedTuple):
    """A call of the C function at an address, which returns 0 where all went well.

    `integers` (pointers among them) and `floats` (numpy.float32 or a double) each in the order of their parameters. `keeps` lives as long.
    """

    function: int
    integers: tuple[int, ...]
    floats: tuple[float, ...] = ()
    keeps: Any = None


class Shared(NamedTuple):
    """Calls made at the same time: the first by whoever makes it, each other by a thread of `team` (`threads.ThreadTeam`) of its own.

    `tasks` are the same for Python, one each. `stamps`: what notes the beginning and the end of each (`fusing.Stamp`), where that is asked for.
    """

    calls: tuple[Call, ...]
    tasks: tuple[Callable[[], Any], ...]
    team: Any
    stamps: tuple[tuple[Any, Any], ...] = ()


class Kernel(ABC):
    """One piece of one node, compiled for a device with every argument bound."""

    #: Names of the implementation chosen, for plans, traces and cost models: `<dtype>_<op>_<method>_<tile>`.
    implementation: str = ""

    @abstractmethod
    def start(self) -> Event:
        """Starts the work; a synchronous device returns only when it is done. Allocates nothing."""

    def calls(self) -> Sequence[Call | Shared] | None:
        """What `start` does as calls of C functions, in order; None where it is more than that. To be asked once the queue is sealed."""
        return None


class Handshake(ABC):
    """Two counters in memory that the host and a device both see while kernels run: `told` by the host, `heard` from the device.

    Both only grow during a run. `sync` makes device work that sets `heard`, then holds the queue until `told` has come far enough.
    """

    told: memoryview
    heard: memoryview

    @abstractmethod
    def sync(self, signal: int = 0, target: int = 0) -> Kernel:
        """Work that sets `heard` to `signal`, then waits until `told` is at least `target`; 0 leaves that half out."""

    def embed(self, piece: Kernel, signal: int, target: int) -> bool:
        """True where that piece can do itself, at its beginning, what `sync` would before it, and now will in every start; else False.

        One that waits does so in every run: where nobody counts, `release` first.
        """
        return False

    def tell(self, piece: Kernel, done: int) -> bool:
        """True where that piece can set `heard` to `done` itself once it is done, and now will in every start (0: no longer will); else False."""
        return False

    def reset(self) -> None:
        """Before a run; nothing may be running."""
        self.told[0] = self.heard[0] = 0

    def release(self) -> None:
        """Lets everything that waits go on, whatever it waits for: the run is given up."""
        self.told[0] = 2**31 - 1

    def close(self) -> None:
        """Frees the counters; nothing may be running."""


#: An operand of `Queue.compile`: memory, a constant's array lives in the Value itself, None is an absent input.
Operand = TensorView | Value | None


class Queue(ABC):
    """One session's in-order use of a device: weights packed once, scratch memory shared by all its kernels."""

    device: Device
    #: Called with (done, of, what) while `seal` compiles.
    progress: Callable[[int, int, str], None] | None = None

    @abstractmethod
    def compile(self, node: Node, out_region: Region, inputs: Sequence[Operand], outputs: Sequence[TensorView | None]) -> Kernel:
        """A kernel for the piece `out_region` of the node's first output.

        `inputs` holds, for each input of the node (a fused residual last), a view that covers at least what
        `regions_read` names, or the constant Value; `outputs` views of each output that cover at least `output_regions`.
        Raises DeviceError where the device has no such kernel (`Device.declines` says so beforehand).
        """

    def seal(self) -> None:
        """Called once after the last compile: allocates scratch memory and binds arguments."""

    def host_scratch(self) -> Sequence[np.ndarray]:
        """The host's memory that kernels use while they run, one after the other, where it is that."""
        return ()

    def flushes(self) -> Sequence[Call] | None:
        """What `flush` does as calls of C functions; None where it is more than that."""
        return None

    def begin_run(self) -> None:
        """Called before a run of many kernels."""

    def end_run(self) -> None:
        """Ends what `begin_run` began, however the run ended."""

    def place(self) -> Within:
        """Where the host's thread of a run belongs, for a thread that hands runs over to another: `begin_run` sees to its own."""
        return Within(())

    def expect_reference(self) -> None:
        """Called before the first run where the host also computes nodes by their reference, beside this queue's kernels."""

    def flush(self) -> None:
        """Makes sure that started work begins; does not wait."""

    def finish(self) -> None:
        """Waits for everything started."""

    def handshake(self, wanted: bool = False) -> Handshake | None:
        """Where they are wanted, counters by which the host and this queue keep in step, or None where they can only do so by events."""
        return None

    def reveal(self, picture: TensorView, view: TensorView) -> Kernel:
        """Work that copies `view.region` from an image to a buffer: for a second look, runs do not need it."""
        raise NotImplementedError

    def upload(self, view: TensorView) -> Event:
        """Makes the host's bytes of a view visible to the device; nothing to do where memory is shared."""
        return DONE

    def download(self, view: TensorView) -> Event:
        """Makes the device's bytes of a view visible to the host once the event is done."""
        return DONE

    def close(self) -> None:
        """Frees what the session held."""


@dataclass(frozen=True)
class DeviceFacts:
    """What a device says of itself. `extra` holds more, by name, for `doctor` and profiles."""

    name: str
    kind: str
    driver: str = ""
    compute_units: int = 1
    emulated: bool = False
    dtypes: frozenset[str] = frozenset()
    sharing: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


class Device(ABC):
    """A processor. `name` is the plan's word for it: `cpu` or `gpu`."""

    name: str
    facts: DeviceFacts
    #: True where `Kernel.start` returns before the work is done.
    asynchronous: bool = False
    #: What its driver's binding may raise where nobody turned that into a DeviceError.
    failures: tuple[type[Exception], ...] = ()
    #: How its memory is shared with the host, one of `facts.sharing`; "" where there is nothing to choose.
    sharing: str = ""
    #: How the host waits for it, one of `waits.WAYS`.
    waiting: str = "event"

    @abstractmethod
    def declines(self, node: Node) -> str | None:
        """Why this device cannot run the node (a short reason for a person), or None where it can."""

    @property
    def operators(self) -> frozenset[tuple[str, str]] | None:
        """Every (domain, op_type) it has kernels for, in one form or another; None: every operator that has a meaning here."""
        return None

    def used_by(self, sharing: str = "", waiting: str = "", cores: Iterable[int] = ()) -> Device:
        """The same device, sharing memory and being waited for in those ways, its threads on those cores; what is empty stays as it is.

        Raises UsageError where it cannot share memory so.
        """
        return self

    def allocate(self, nbytes: int) -> Buffer:
        """Memory that the host and this device both address. Raises DeviceError where there is not enough."""
        return HostBuffer(nbytes)

    def taken_bytes(self, nbytes: int) -> int:
        """What `allocate(nbytes)` takes of the machine's memory: more where each side has its own."""
        return nbytes

    def declines_image(self, node: Node, regions: Sequence[Region]) -> str | None:
        """Why it cannot run the node on operands of those regions that lie in images (`partition.images`), or None where it can."""
        return f"{self.facts.name} has no images"

    def picture(self, width: int, height: int) -> Buffer:
        """An image of so many pixels of four float32, for `TensorView`s that only this device's kernels read and write. Raises DeviceError."""
        raise NotImplementedError

    @abstractmethod
    def queue(self, threads: int = 1) -> Queue:
        """A session's use of this device, with that many threads where the device is made of threads."""

    def tune(self, graph: Graph, plan: Plan, budget_s: float, progress: Callable[[int, int, str], None] | None = None) -> int:
        """Tries kernel forms for this device's pieces of a plan, within so many seconds; returns how many pieces were tuned."""
        return 0

    def close(self) -> None:
        """Gives the device back."""

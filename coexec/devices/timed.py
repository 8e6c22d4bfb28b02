"""When a queue's work really ran. A device's folder may hold a module `timed` with a function `timed(queue)`; being there is enough.

Only traced sessions ask: other queues keep no times.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .base import Event, Kernel, Queue, TensorView
from .fusing import Step


class Stretch(NamedTuple):
    """Work from `start_ns` to `stop_ns` of a clock; `worker` is the thread of a team that did it, 0 the queue itself."""

    start_ns: int
    stop_ns: int
    worker: int = 0


class Probe(NamedTuple):
    """A small piece of work on an idle queue: `before_ns` of the host's clock (time.perf_counter_ns) was no later than `start_ns` of the device's,
    and `stop_ns` of the device's no later than `after_ns` of the host's.
    """

    before_ns: int
    start_ns: int
    stop_ns: int
    after_ns: int


#: Gives the stretches of work once it is done; none where the driver does not know.
Read = Callable[[], "list[Stretch]"]


class Timer(ABC):
    """Starts the work of one queue in such a way that its times can be read afterwards."""

    #: True where stretches are times of the device's own clock, which `probe` compares with the host's.
    own_clock: bool = False

    @abstractmethod
    def start(self, kernel: Kernel) -> tuple[Event, Read]:
        """`kernel.start()`, timed."""

    def calls(self, kernel: Kernel) -> tuple[Sequence[Step], Read] | None:
        """`Kernel.calls`, timed: what is to be read once that work is done, and after every time that it was. None where only `start` will do."""
        return None

    @abstractmethod
    def move(self, view: TensorView, to_host: bool) -> tuple[Event, Read]:
        """`Queue.download` or `Queue.upload` of a view, timed."""

    def probe(self) -> Probe | None:
        """One comparison of the clocks; None where the driver gives no times."""
        return None


def timed(queue: Queue) -> Timer | None:
    """A timer for a queue on which nothing was compiled yet; None where its device has no times of its own."""
    package = type(queue).__module__.rpartition(".")[0]
    name = f"{package}.timed"
    if not package or package == __package__ or importlib.util.find_spec(name) is None:
        return None
    return importlib.import_module(name).timed(queue)

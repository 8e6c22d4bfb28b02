"""CpuDevice and CpuQueue: each piece is cut once more, one share per thread of the session's own team."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from ... import settings
from ...errors import DeviceError, UsageError
from ...graph.ir import Node, Value
from ...ops import op_for
from ...ops.base import Op
from ...regions import Region
from ..base import DONE, Call, Device, DeviceFacts, Event, Kernel, Operand, Queue, Shared, TensorView
from ..cores import Within, apart, for_team, usable
from . import blas, denormals
from .build import FAIR_SHARE, Options, Packs, Piece, Program, build, cut_evenly, ready, share_out
from .threads import Task, ThreadTeam

#: Below both, a piece stays on the calling thread: waking another one costs about as much as the work (20-40 us).
SPLIT_FLOPS, SPLIT_BYTES = 1_000_000, 256 * 1024


class CpuDevice(Device):
    """The processor this program runs on. Computes every operator, at least by NumPy."""

    name = "cpu"
    asynchronous = False

    def __init__(self, cores: Iterable[int] = ()) -> None:
        """`cores`: where its threads run, as far as the process may use them; default: the biggest."""
        self.cores = frozenset(cores) & usable()
        count = len(self.cores) or usable_cores()
        self.facts = DeviceFacts(
            name=cpu_model(), kind="cpu", driver=f"NumPy {np.__version__}", compute_units=count,
            dtypes=frozenset({"float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
                              "uint64", "bool", "complex64", "complex128"}),
            sharing=("host",), extra={"machine": platform.machine(), "cores": count},
        )

    def declines(self, node: Node) -> str | None:
        return None

    def used_by(self, sharing: str = "", waiting: str = "", cores: Iterable[int] = ()) -> Device:
        wanted = frozenset(cores) & usable()
        return CpuDevice(wanted) if wanted and wanted != self.cores else self

    def queue(self, threads: int = 1, **options: object) -> CpuQueue:
        """A session's use of `threads` threads; options are the fields of `Options`. Raises UsageError where there are none."""
        return CpuQueue(self, threads, replace(Options(winograd_tile=int(settings.get("winograd") or 0)), **options))


class CpuQueue(Queue):
    """Kernels of one session, run by the calling thread and a team of `threads - 1` others."""

    def __init__(self, device: CpuDevice, threads: int, options: Options):
        if threads < 1:
            raise UsageError("a CPU queue needs a thread", found=threads, expected="at least 1")
        self.device, self.threads, self.options = device, threads, options
        self._team: ThreadTeam | None = None
        self._packs = Packs()
        self._kernels: list[CpuKernel] = []
        self._scratch = [_aligned(0) for _ in range(threads)]
        self._uses_blas, self._flushes = False, not settings.get("denormals")
        self._holds: list[bool] = []  # of the runs begun and not ended
        self._within = Within(())
        blas.libraries()

    def compile(self, node: Node, out_region: Region, inputs: Sequence[Operand], outputs: Sequence[TensorView | None]) -> CpuKernel:
        op = op_for(node)
        programs = []
        for share in shares(op, node, out_region, self.threads):
            regions = op.regions_read(node, share)
            written = op.output_regions(node, share)
            piece = Piece(node, op, share, regions, tuple(self._window(v, r, node) for v, r in zip(inputs, regions)),
                          tuple(None if v is None or r is None else v.sub(r).array for v, r in zip(outputs, written)),
                          self.options, self._packs)
            programs.append(build(piece))
        kernel = CpuKernel(self, programs)
        self._kernels.append(kernel)
        self._uses_blas |= kernel.uses_blas
        return kernel

    @staticmethod
    def _window(operand: Operand, region: Region | None, node: Node) -> np.ndarray | None:
        if operand is None or region is None:
            return None
        if isinstance(operand, Value):
            if operand.data is None:
                raise DeviceError("an operand is neither memory nor a constant", where=f"{node.op_type} '{node.name}'", found=operand)
            return operand.data[region.slices]
        return operand.sub(region).array

    def seal(self) -> None:
        """Fills packed weights, allocates scratch memory for the neediest kernel of each thread, and binds what was compiled since."""
        self._packs.finish(packing_threads())
        grown = False
        for i in range(self.threads):
            needed = max((k.programs[i].scratch_bytes for k in self._kernels if i < len(k.programs)), default=0)
            if needed > self._scratch[i].nbytes:
                self._scratch[i], grown = _aligned(needed), True
        kinds, seen = {k.implementation for k in self._kernels}, set()
        for kernel in self._kernels:
            if self.progress is not None and kernel.implementation not in seen:  # others of that kind find it compiled
                self.progress(len(seen), len(kinds), f"kernels of the CPU, {kernel.implementation}")
                seen.add(kernel.implementation)
            if grown or kernel.tasks is None:
                kernel.tasks = [ready(p.bind(s[:p.scratch_bytes])) for p, s in zip(kernel.programs, self._scratch)]
        parallel = any(len(k.programs) > 1 for k in self._kernels)
        cores = for_team(self.threads, self.device.cores)
        own = apart(self.threads, cores) if parallel else (cores,)
        self._within = Within(own[0])
        if self._team is None and parallel:
            self._team = ThreadTeam(self.threads, own[1:])

    def host_scratch(self) -> Sequence[np.ndarray]:
        return self._scratch

    @property
    def scratch_bytes(self) -> int:
        """Bytes of scratch memory and packed weights that this queue holds."""
        return sum(s.nbytes for s in self._scratch) + self._packs.nbytes

    def begin_run(self) -> None:
        """Called before a run of many kernels: holds BLAS to one thread once, not once per kernel, and only where some kernel uses it."""
        if self._uses_blas:
            blas.acquire()
        if self._flushes:
            denormals.flush()
        self._within.enter()
        self._holds.append(self._uses_blas)

    def end_run(self) -> None:
        """Ends what `begin_run` began."""
        self._within.leave()
        if self._flushes:
            denormals.restore()
        if self._holds.pop():
            blas.release()

    def place(self) -> Within:
        return Within(self._within.cores)

    @property
    def team(self) -> ThreadTeam | None:
        """The threads beside the calling one; None where no kernel needs any."""
        return self._team

    @property
    def holds_blas(self) -> bool:
        """True within a run that holds BLAS to one thread."""
        return bool(self._holds) and self._holds[-1]

    def expect_reference(self) -> None:
        self._uses_blas = True

    def run(self, tasks: Sequence[Task]) -> None:
        if len(tasks) == 1:
            tasks[0]()
        else:
            self._team.run(tasks)

    def close(self) -> None:
        if self._team is not None:
            self._team.close()
            self._team = None
        self._kernels, self._packs = [], Packs()
        self._scratch = [_aligned(0) for _ in range(self.threads)]


class CpuKernel(Kernel):
    """One closure per thread, arrays bound."""

    def __init__(self, queue: CpuQueue, programs: Sequence[Program]):
        self.queue, self.programs = queue, tuple(programs)
        self.tasks: list[Task] | None = None
        self.uses_blas = any(p.uses_blas for p in programs)
        self.implementation = next((p.implementation for p in programs if p.implementation != "empty"), "empty")

    def start(self) -> Event:
        queue = self.queue
        if self.tasks is None:
            queue.seal()
        if not self.uses_blas or queue.holds_blas:
            queue.run(self.tasks)
            return DONE
        with blas.held_to_one():
            queue.run(self.tasks)
        return DONE

    def calls(self) -> Sequence[Call | Shared] | None:
        if self.implementation == "empty":
            return ()
        if self.tasks is None or self.uses_blas or not all(isinstance(task, partial) for task in self.tasks):
            return None
        from .native import call_of

        made = tuple(call for task in self.tasks if (call := call_of(task)) is not None)
        if len(made) < len(self.tasks):
            return None
        return made if len(made) == 1 else (Shared(made, tuple(self.tasks), self.queue.team),)


def shares(op: Op, node: Node, out_region: Region, threads: int) -> list[Region]:
    """The piece cut for `threads` threads at legal multiples; one share where the work is small or cannot be cut.

    As the operator's kernels like it, else along the first axis whose shares are fair, else along the one where they are most even.
    """
    if threads == 1 or not out_region.size:
        return [out_region]
    work = op.work(node, out_region)
    if work.flops < SPLIT_FLOPS and work.bytes_read + work.bytes_written < SPLIT_BYTES:
        return [out_region]
    own = share_out(op, node, out_region, threads)
    if own is not None:
        return own
    best: tuple[float, list[Region]] | None = None
    for axis in op.split_axes(node):
        pieces = cut_evenly(axis, out_region, threads)
        unfairness = max(p.size for p in pieces) * threads / out_region.size
        if best is None or unfairness < best[0] - 1e-9:
            best = unfairness, pieces
        if best[0] <= FAIR_SHARE:
            break
    return best[1] if best else [out_region]


def _aligned(nbytes: int) -> np.ndarray:
    raw = np.empty(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start:start + nbytes]


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def packing_threads() -> int:
    """Threads that rearrange weights: nothing runs yet on the cores that are kept for a GPU, or that the session leaves to others."""
    return settings.get("threads") or usable_cores()


@lru_cache(maxsize=1)
def cpu_model() -> str:
    """What the processor calls itself, e.g. `AMD EPYC`; on ARM the kernel often knows only numbers."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    facts = dict(reversed([[p.strip() for p in line.split(":", 1)] for line in text.splitlines() if ":" in line]))
    named = facts.get("model name") or facts.get("Hardware") or facts.get("Model")
    if named:
        return named
    if "CPU part" in facts:
        return f"ARM implementer {facts.get('CPU implementer', '?')} part {facts['CPU part']}"
    return platform.processor() or platform.machine() or "CPU"

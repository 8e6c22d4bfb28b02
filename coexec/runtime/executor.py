"""A prepared run: every kernel compiled, every buffer placed; running it is a loop over closures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter, sleep
from typing import Any

import numpy as np

from .. import settings
from ..devices.base import Buffer, Device, Event, Kernel, Operand, Queue, TensorView
from ..devices.fusing import NAP_S, Await, Doing, Put, fused
from ..devices.timed import Timer, timed
from ..devices.waits import wait_by
from ..errors import CoexecError, DeviceError, MemoryLimit
from ..graph.ir import Graph, Node, Value
from ..ops import op_for
from ..ops.fallback import is_fallback
from ..partition import images
from ..partition.halos import keep_halos
from ..partition.plan import Plan, on_one_device
from ..regions import Region
from .hazards import guard
from .memory import MemoryPlan, plan_memory
from .order import ordered
from .pictures import place
from .schedule import HOST, Alias, Dynamic, Flush, Join, Move, Start, Step, Wait
from .trace import Trace, phase
from .weave import Hear, Stepping, Sync, Tell, WovenStep, weave

log = logging.getLogger("coexec")

Action = Callable[[], Any]

#: Looks at a counter before the host goes to sleep on the piece's event instead: a few hundred microseconds.
LOOKS = 10_000
#: Where no event is made, the host gives up after that many seconds, or after so many times what the whole run was predicted to take.
GIVE_UP_S, PATIENCE = 1.0, 10
#: Nodes that may move to the CPU because their kernels cannot be made; with more, something is wrong with the device itself.
MAX_REFUSED = 3


class Unanswered(Exception):
    """The device did not say in time that it is done with a piece. It may be slow, have failed, or hang: its driver was not asked."""


class PreparedRun:
    """A plan bound to devices. Not thread-safe: a session lets one thread at a time run it.

    `plan` is the plan that really runs: a node whose kernel a device cannot build goes to the CPU with a warning, or, with
    `strict`, raises the DeviceError. With a `trace` its preparation is traced, and `runtime.traced.run_traced` can time its runs.
    `progress` is called with (done, of, what) while kernels are compiled, and in the first run, in which drivers compile too. one_by_one: no
    node is begun before each unit is done with the one before, whatever it reads.
    """

    def __init__(self, graph: Graph, plan: Plan, devices: Mapping[str, Device], threads: int = 1, strict: bool = False,
                 trace: Trace | None = None, progress: Callable[[int, int, str], None] | None = None, one_by_one: bool = False):
        plan.check(graph)
        self.graph, self.devices, self.threads, self.trace, self.progress = graph, devices, threads, trace, progress
        self.plan, self._one_by_one = settle(graph, plan, devices, strict), one_by_one
        self.has_run = False
        refused: list[_NoKernel] = []
        while True:
            self.queues: dict[str, Queue] = {}
            try:
                self._prepare()
                _tell_refused(refused, devices)
                return
            except _NoKernel as failure:
                self.close()
                refused.append(failure)
                if strict or failure.device == HOST or len(refused) > MAX_REFUSED:
                    raise failure.error from failure.error.__cause__
                self.plan = moved(self.plan, failure.node, f"gpu: {failure.error.what}")
            except BaseException:
                self.close()
                raise

    def _prepare(self) -> None:
        self.plan = plan = replace(self.plan, partitions=keep_halos(self.graph, [self.plan[n.name] for n in self.graph.nodes]))
        self.is_far = bool(set(plan.devices) - {HOST})
        trace = self.trace
        with phase(trace, "schedule"):
            self.asynchronous = frozenset(name for name, device in self.devices.items() if device.asynchronous and name in plan.devices)
            steps = ordered(self.graph, plan, self.asynchronous, self._one_by_one)
            self.memory: MemoryPlan = plan_memory(self.graph, steps, plan.early_reuse)
            self.steps: list[Step] = guard(steps, self.memory)
        self.kept = self._in_images()
        self.image_plan = place(self.graph, self.steps, self.kept)
        used = [self.devices[d] for d in sorted(plan.devices) if d in self.devices]
        allocator = next((d for d in used if d.asynchronous), self.devices[HOST])
        limit, needed = settings.get("memory_limit"), allocator.taken_bytes(self.memory.nbytes) + self.image_plan.nbytes
        self.planned_bytes = needed
        if limit and needed > limit:
            raise MemoryLimit("the activations need more memory than the limit", where=self.graph.name, found=f"{needed} bytes",
                              expected=f"at most {limit}", hint="raise COEXEC_MEMORY_LIMIT, or take a smaller batch or input")
        self.images: list[Buffer] = []
        with phase(trace, "allocate", bytes=needed):
            try:
                self.buffer: Buffer = allocator.allocate(max(1, self.memory.nbytes))
                for size in self.image_plan.sizes:
                    self.images.append(self.devices[images.GPU].picture(*size))
            except MemoryError:
                raise MemoryLimit("there is not enough memory for the activations", where=self.graph.name, found=f"{needed} bytes",
                                  hint="take a smaller batch or input") from None
        self.views = {v: TensorView.contiguous(self.buffer, v.dtype, Region.whole(v.shape), at) for v, at in self.memory.offsets.items()}
        self.pictures = {v: TensorView.contiguous(self.images[self.image_plan.where[v]], v.dtype, r) for v, r in self.kept.items()}
        self.queues = {d.name: d.queue(self.threads) for d in {id(d): d for d in (*used, self.devices[HOST])}.values()}
        asked = {} if trace is None else {name: timed(queue) for name, queue in self.queues.items()}
        self.timers: dict[str, Timer] = {name: timer for name, timer in asked.items() if timer is not None}
        #: Where the thread belongs that hands this run over to another; empty where no device cares.
        self.places = [there for queue in self.queues.values() if (there := queue.place()).cores]
        self.objects: dict[Value, Any] = {}
        #: Ways of doing the run that are timed (`runtime.tape`), by whether they keep in step by counters.
        self.tapes: dict[bool, Any] = {}
        self.events: list[Event | None] = [None] * (1 + sum(isinstance(s, Start) and s.index >= 0 for s in self.steps))
        self.kernels: dict[Start, Kernel] = {}
        self.described: dict[Start, dict[str, Any]] = {}
        slots = self._number_pieces()
        with phase(trace, "compile"):
            compiled = []
            for done, step in enumerate(self.steps):
                if self.progress is not None and isinstance(step, Start):
                    self.progress(done, len(self.steps), f"kernels, {step.node.name}")
                compiled.append((step, self._action(step, slots)))
        for name, queue in self.queues.items():
            queue.progress = self.progress
            with phase(trace, f"pack {name}"):  # fills packed weights, allocates scratch memory, binds arguments
                queue.seal()
        self.actions = [(step, action) for step, action in compiled if action is not None]
        #: The run kept in step by counters: its steps (the first is none), what each does, and how without Python; None where there are none.
        self.in_step: list[tuple[WovenStep | None, Action, Doing]] | None = None
        #: The first run, in which drivers compile and that can be told of step by step; and every later one.
        self.first, self.hot = self._woven_actions(slots) or self._plain_actions()
        self.inputs = [(v, self.views[v].array if v in self.views else None) for v in self.graph.inputs]
        self.outputs = [(v, v.data if v.is_constant else self.views[v].array if v in self.views else None) for v in self.graph.outputs]

    def _in_images(self) -> dict[Value, Region]:
        """The values that images hold, with their regions: of the plan's nodes, or of every node that can, or none, as the setting says."""
        gpu, storage = self.devices.get(images.GPU), settings.get("storage")
        if gpu is None or images.GPU not in self.asynchronous or storage == "buffer" or not (storage or self.plan.images):
            return {}
        found = [name for run in images.runs(self.graph, self.plan.partitions) for name in run if storage or name in self.plan.images]
        names = frozenset(name for name in found if self._takes_images(gpu, self.graph.node(name)))
        return images.inside(self.graph, self.plan.partitions, names)

    def _takes_images(self, gpu: Device, node: Node) -> bool:
        region = images.on_gpu(node, self.plan[node.name])
        return gpu.declines_image(node, [region, *images.transforms(node, region, {node.output: region})]) is None

    def reveal(self, value: Value, kept: Value, region: Region, device: str) -> None:
        """Copies that region from the image that holds it, if one does, to where it would lie in a buffer. Nothing may be running."""
        if device == images.GPU and value in self.pictures:
            self.queues[device].reveal(self.pictures[value], self.views[kept].sub(region)).start().wait()

    def _number_pieces(self) -> Mapping[tuple[str, int], int]:
        """Where in `events` the piece `index` of a device leaves its event."""
        started = [(s.device, s.index) for s in self.steps if isinstance(s, Start) and s.index >= 0]
        return {key: slot for slot, key in enumerate(started)}

    def _action(self, step: Step, slots: Mapping[tuple[str, int], int]) -> Action | None:
        match step:
            case Start(node=node, device=device, index=index):
                kernel = self.kernels[step] = self._compile(node, device, step.region)
                if index < 0:
                    return kernel.start
                events, slot, start = self.events, slots[device, index], kernel.start

                def begin() -> None:
                    events[slot] = start()

                return begin
            case Wait(device=device, index=index):
                events, slot = self.events, slots[device, index]
                if (way := self.devices[device].waiting) in ("event", "flag"):
                    return lambda: events[slot].wait()  # type: ignore[union-attr]
                wait = wait_by(way, self.queues[device])
                return lambda: wait(events[slot])  # type: ignore[arg-type]
            case Flush(device=device):
                return self.queues[device].flush
            case Move(value=value, region=region, device=device, to_host=to_host):
                if self.buffer.shared:
                    return None
                queue, view = self.queues[device], self.views[value].sub(region)
                return (lambda: queue.download(view).wait()) if to_host else (lambda: queue.upload(view))
            case Alias(node=node):
                source, view = node.inputs[0], self.views[node.output]
                if not source.is_constant:
                    return None
                data, target = source.data.reshape(view.shape), view.array
                return lambda: np.copyto(target, data)
            case Join():
                return None
            case Dynamic(node=node):
                self.queues[HOST].expect_reference()
                return lambda: self._dynamic(node)
        raise AssertionError(step)

    def _plain_actions(self) -> tuple[list[Action], list[Action]]:
        """The run that waits by events: step by step, and with the CPU's kernels in a row as one."""
        doing = ((action, self.kernels[step].calls() if isinstance(step, Start) and step.index < 0 else None) for step, action in self.actions)
        return [action for _, action in self.actions], fused(doing)

    def _woven_actions(self, slots: Mapping[tuple[str, int], int]) -> tuple[list[Action], list[Action]] | None:
        """The run kept in step by counters, step by step and as far as possible as one; None where there are none, or nothing to keep in step."""
        self.handshake = None
        if len(self.asynchronous) != 1 or not self.buffer.shared:
            return None
        device, = self.asynchronous
        used = {s.device for s in self.steps if isinstance(s, Start)}
        asked = settings.get("wait")  # goes before what the plan says
        wanted = asked == "flag" if asked else (
            self.plan.counters or self.devices[device].waiting == "flag" and self.plan.measured_ms is None)  # else it was tried without
        if used != {HOST, device} or (handshake := self.queues[device].handshake(wanted)) is None:
            return None
        self.handshake = handshake
        made = dict(self.actions)
        woven = weave(self.steps, self.memory, device, can_step=lambda start: handshake.embed(self.kernels[start], 0, 0),
                      can_tell=lambda start: handshake.tell(self.kernels[start], 0))
        first: list[Action] = [handshake.reset]
        self.in_step = [(None, handshake.reset, (Put(handshake.told, 0), Put(handshake.heard, 0)))]
        for step in woven:
            action, doing = self._woven(step, made, slots)
            if action is not None:
                first.append(action)
                self.in_step.append((step, self._patient(step) if isinstance(step, Hear) else action, doing))
        return first, fused((action, doing) for _, action, doing in self.in_step)

    def _woven(self, step: WovenStep, made: Mapping[Step, Action], slots: Mapping[tuple[str, int], int]) -> tuple[Action | None, Doing]:
        """A step of a run kept in step by counters, and what it does without Python."""
        handshake = self.handshake
        match step:
            case Sync(signal=signal, target=target):
                kernel = handshake.sync(signal, target)
                return kernel.start, kernel.calls()
            case Stepping(start=start, signal=signal, target=target, tells=tells):
                if signal or target:
                    handshake.embed(self.kernels[start], signal, target)
                if tells:
                    handshake.tell(self.kernels[start], start.index)
                return made[start], self.kernels[start].calls()
            case Tell(number=number):
                told = handshake.told

                def tell() -> None:
                    told[0] = number

                return tell, [Put(told, number)]
            case Hear(device=device, index=index):
                heard, events, slot, queue = handshake.heard, self.events, slots[device, index], self.queues[device]
                is_last = (device, index + 1) not in slots

                def hear() -> None:
                    for _ in range(LOOKS):
                        if heard[0] >= index:
                            return
                    if is_last:
                        queue.finish()  # not the piece alone: its signal must not arrive in the next run
                    else:
                        events[slot].wait()  # type: ignore[union-attr]

                return hear, [Await(heard, index)]
            case Flush(device=device):
                queue = self.queues[device]
                return queue.flush, queue.flushes()
        return made.get(step), self.kernels[step].calls() if isinstance(step, Start) else None

    def _patient(self, step: Hear) -> Action:
        """Waiting for a piece's signal where its start made no event to fall back on."""
        heard, index, give_up_s = self.handshake.heard, step.index, max(GIVE_UP_S, PATIENCE * 1e-3 * (self.plan.predicted_ms or 0.0))

        def hear() -> None:
            until = perf_counter() + give_up_s
            while heard[0] < index:
                if perf_counter() > until:
                    raise Unanswered
                sleep(NAP_S)

        return hear

    def _compile(self, node: Node, device: str, region: Region) -> Kernel:
        inputs: list[Operand] = [None if v is None else v if v.is_constant else self.views[v] for v in node.inputs]
        outputs = [None if v is None else self.views[v] for v in node.outputs]
        if device == images.GPU and self.pictures:
            whole = self.graph.node(node.name)  # `node` may be on the device's own copies
            inputs = [self.pictures.get(v, given) for v, given in zip(whole.inputs, inputs)]
            outputs = [self.pictures.get(v, given) for v, given in zip(whole.outputs, outputs)]
        try:
            if self.trace is None:
                return self.queues[device].compile(node, region, inputs, outputs)
            return self._compile_traced(self.trace, node, device, region, inputs, outputs)
        except DeviceError as error:
            raise _NoKernel(node, device, error) from error

    def _compile_traced(self, trace: Trace, node: Node, device: str, region: Region, inputs: list[Operand],
                        outputs: list[TensorView | None]) -> Kernel:
        with trace.phase(node.name, "compile", op_type=node.op_type, device=device, region=str(region)) as args:
            kernel = self.queues[device].compile(node, region, inputs, outputs)
            args["implementation"] = kernel.implementation or None
        return kernel

    def _dynamic(self, node: Node) -> None:
        results = op_for(node).run_whole(node, [None if v is None else self._fetch(v) for v in node.inputs])
        for value, result in zip(node.outputs, results):
            if value is None:
                continue
            if value in self.views:
                target = self.views[value].array
                if np.shape(result) != target.shape:
                    raise CoexecError("a node's result has another shape than ONNX infers", where=f"{node.op_type} '{node.name}'",
                                      found=np.shape(result), expected=target.shape)
                np.copyto(target, result)
            else:
                self.objects[value] = result

    def _fetch(self, value: Value) -> Any:
        return value.data if value.is_constant else self.views[value].array if value in self.views else self.objects[value]

    @property
    def is_bounded(self) -> bool:
        """True where `attempt` waits for nothing that may never come."""
        return self.has_run and self.handshake is not None

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The graph's outputs by name, as fresh arrays. The feeds have been checked: every input is there, of its type and shape."""
        try:
            return self._run(self.hot if self.has_run else self.first, feeds)
        except Unanswered:
            return self.run_again(feeds)

    def attempt(self, feeds: Mapping[str, Any]) -> dict[str, Any] | None:
        """As `run`, where `is_bounded`; None where a device did not answer. Then `run_again`, and after any error `stop`, under a watch: either may
        never return.
        """
        try:
            return self._do(self.hot, feeds)
        except Unanswered:
            return None

    def run_again(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The run once more, step by step, waiting by events: they tell whether the device failed, or was only slow."""
        self.stop()
        return self._run([action for _, action in self.actions], feeds)

    def stop(self) -> None:
        """After a run that was given up: nothing is running any more, so that the next one may use the same memory."""
        self.uncounted()
        self._drain()

    def _run(self, actions: Sequence[Action], feeds: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._do(actions, feeds)
        except Unanswered:
            raise
        except BaseException:
            self.stop()
            raise

    def _do(self, actions: Sequence[Action], feeds: Mapping[str, Any]) -> dict[str, Any]:
        self._feed(feeds)
        queues = tuple(self.queues.values())
        for queue in queues:
            queue.begin_run()
        try:
            if self.progress is not None and not self.has_run:
                self._run_telling(actions)
            else:
                for action in actions:
                    action()
            self.has_run = True
        finally:
            for queue in queues:
                queue.end_run()
        return self._results()

    def uncounted(self) -> None:
        """Before `actions` are run, step by step, instead of `hot`: nothing there counts, so pieces that are in step wait for nobody."""
        if self.handshake is not None:
            self.handshake.release()

    def _run_telling(self, actions: Sequence[Action]) -> None:
        """The run, while `progress` is told of it: many drivers compile a kernel when it is started for the first time."""
        for done, action in enumerate(actions):
            self.progress(done, len(actions), "first run")  # type: ignore[misc]
            action()
        self.progress(len(actions), len(actions), "first run")  # type: ignore[misc]

    def _feed(self, feeds: Mapping[str, Any]) -> None:
        for value, target in self.inputs:
            if target is None:
                self.objects[value] = feeds[value.name]
            else:
                np.copyto(target, feeds[value.name])

    def _results(self) -> dict[str, Any]:
        results = {v.name: a.copy() if a is not None else self.objects[v] for v, a in self.outputs}
        if self.objects:
            self.objects.clear()
        return results

    def _drain(self) -> None:
        """Nothing may still be running when an error leaves this run: the next one uses the same memory."""
        for queue in self.queues.values():
            try:
                queue.finish()
            except DeviceError as error:
                log.info("while stopping after an error: %s", error)  # whoever gets that error says what is to be said

    def close(self) -> None:
        """Frees kernels and memory; nothing is running afterwards."""
        failure: Exception | None = None
        for queue in self.queues.values():
            try:
                queue.close()
            except Exception as error:  # the others have threads and memory to give back too
                failure = failure or error
        self.queues, self.timers, self.tapes, self.kernels, self.actions, self.in_step, self.first, self.hot = {}, {}, {}, {}, [], None, [], []
        self.views, self.inputs, self.outputs, self.pictures = {}, [], [], {}
        for image in self.__dict__.pop("images", []):
            image.close()
        buffer = self.__dict__.pop("buffer", None)
        if buffer is not None:
            buffer.close()
        if failure is not None:
            raise failure


class _NoKernel(Exception):
    def __init__(self, node: Node, device: str, error: DeviceError):
        super().__init__(str(error))
        self.node, self.device, self.error = node, device, error


def _tell_refused(refused: list[_NoKernel], devices: Mapping[str, Device]) -> None:
    """One warning for all the nodes that went to the CPU because their kernel could not be made."""
    if refused:
        first = refused[0]
        others = f" (and {len(refused) - 1} more: {', '.join(f.node.name for f in refused[1:])})" if len(refused) > 1 else ""
        log.warning("[%s] %s '%s'%s: %s; this node runs on the CPU instead", devices[first.device].facts.name, first.node.op_type,
                    first.node.name, others, first.error)


def moved(plan: Plan, node: Node, note: str, device: str = HOST) -> Plan:
    """The plan with that node whole on another device, and a note that says why."""
    there = on_one_device(node, device, note=note)
    return replace(plan, partitions=tuple(there if p.name == node.name else p for p in plan.partitions))


def settle(graph: Graph, plan: Plan, devices: Mapping[str, Device], strict: bool) -> Plan:
    """The plan with every node that its device declines moved to the CPU. Raises DeviceError instead under `strict`."""
    changed: dict[str, Any] = {}
    for node in graph.nodes:
        partition = plan[node.name]
        for name in partition.devices:
            if name == HOST or is_fallback(op_for(node)) and not node.is_static:
                continue
            reason = f"there is no device '{name}' here" if name not in devices else devices[name].declines(node)
            if reason and strict:
                raise DeviceError(f"the plan puts this node on {name}, which cannot run it", where=f"{node.op_type} '{node.name}'",
                                  found=reason, hint="run without --strict, or force the node to the CPU")
            if reason:
                changed[node.name] = on_one_device(node, HOST, note=f"{name}: {reason}")
                break
    if not changed:
        return plan
    return replace(plan, partitions=tuple(changed.get(p.name, p) for p in plan.partitions))



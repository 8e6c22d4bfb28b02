"""When a device fails: which node and kernel it was, what is said about it, and the plan that does without the device.

A fault never changes an answer. The run starts again from its inputs on the CPU, and the device is quarantined: the session leaves it
alone until it is told to try again. What a device that hangs may still write to is kept for the life of the process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..devices.base import Device
from ..errors import CoexecError, DeviceError, DeviceHang, DeviceLost, NumericMismatch
from ..graph.ir import Graph, Node
from ..partition.plan import Plan, on_one_device
from .executor import PreparedRun
from .schedule import HOST, Start
from .watchdog import TimedOut, Watch

log = logging.getLogger("coexec")

#: A first run may compile kernels (PoCL does): it gets this much longer.
FIRST_RUN_S = 120.0
#: A run is called hung after this many times what was predicted, where that is more than the setting.
PATIENCE = 100

_abandoned: list[Any] = []


@dataclass(frozen=True)
class Fault:
    """One failure of a device. `device` is the plan's word for it, `facts` the driver's; node and kernel are empty where nobody knows."""

    device: str
    facts: str
    node: str
    kernel: str
    what: str
    error: BaseException | None = None

    def __str__(self) -> str:
        node = self.node or "no node in particular"
        kernel = f", kernel {self.kernel}" if self.kernel else ""
        return " ".join(f"[{self.facts}, {node}{kernel}] {self.what}".split())


class Health:
    """What a session knows of its devices: faults so far, and which devices it leaves alone.

    retries: how many faults are forgiven; after each of those the next run tries the device again. Under `strict` every fault is raised.
    """

    def __init__(self, strict: bool, retries: int = 0):
        self.strict, self.retries = strict, retries
        self.faults: list[Fault] = []
        self.quarantined: set[str] = set()
        self.retry_due = False

    def report(self, fault: Fault) -> None:
        """Notes a fault and warns once. Raises the error that the exit codes document where `strict`."""
        self.faults.append(fault)
        if self.strict:
            raise raised(fault) from fault.error
        if fault.error is not None:  # its traceback would keep every frame alive, and with them the run's memory
            fault.error.__traceback__ = fault.error.__cause__ = fault.error.__context__ = None
        self.quarantined.add(fault.device)
        self.retry_due = len(self.faults) <= self.retries
        after = "the next run tries it again" if self.retry_due else "later runs too; session.retry_device() or --retry tries it again"
        log.warning("%s; this runs on the CPU instead, %s", fault, after)

    def forgive(self) -> None:
        """Every device may be tried again."""
        self.quarantined.clear()
        self.retry_due = False


def raised(fault: Fault) -> CoexecError:
    """The fault as an error: DeviceHang, NumericMismatch and failed builds as they are, anything else is a device lost."""
    error = fault.error
    if isinstance(error, (DeviceHang, NumericMismatch)):
        return type(error)(error.what, where=str(fault).partition("]")[0][1:], found=error.found, expected=error.expected, hint=error.hint)
    return DeviceLost("the device failed", where=str(fault).partition("]")[0][1:], found=fault.what,
                      hint="run without --strict to go on with the CPU")


def failures(devices: Iterable[Device]) -> tuple[type[BaseException], ...]:
    """What a failing device may raise: our errors, and those of its driver's binding wherever nobody turned them into ours."""
    return (DeviceError, DeviceHang, *{kind for device in devices for kind in device.failures})


def timeout_s(prepared: PreparedRun, at_least_s: float) -> float:
    """Seconds after which a run of this plan is called hung."""
    predicted = (prepared.plan.predicted_ms or 0.0) / 1e3
    return max(at_least_s, PATIENCE * predicted) + (0.0 if prepared.has_run else FIRST_RUN_S)


def watched(watch: Watch, prepared: PreparedRun, feeds: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    """A run that ends, whatever its devices do. Raises TimedOut; then what it began may still be at work.

    Another thread does what may never return: handing it over takes as long as some models' kernels, so the run is tried here where it waits
    for nothing of that kind.
    """
    work = prepared.run
    if prepared.is_bounded:
        try:
            results = prepared.attempt(feeds)
        except BaseException:  # Ctrl-C among them: also what ends the run asks the driver
            with suppress(TimedOut):
                watch.call(prepared.stop, limit_s, prepared.places)
            raise
        if results is not None:
            return results
        work = prepared.run_again
    return watch.call(partial(work, feeds), timeout_s(prepared, limit_s), prepared.places)


def far_devices(plan: Plan) -> list[str]:
    """The devices of a plan other than the host, by name."""
    return sorted(set(plan.devices) - {HOST})


def fault_of(error: BaseException, devices: Mapping[str, Device], plan: Plan, graph: Graph, prepared: PreparedRun | None = None) -> Fault:
    """Whose fault it was: the node that the error names, else the first piece that is not done."""
    device = next(iter(far_devices(plan)), HOST)
    where = getattr(error, "where", "")
    node = next((n for n in graph.nodes if where and f"{n.op_type} '{n.name}'" in where), None)
    kernel = ""
    if prepared is not None:
        kernel = next((k.implementation for s, k in prepared.kernels.items()
                       if node is not None and s.node.name == node.name and s.device == device), "")
        if node is None:
            node, kernel = unfinished(prepared, device)
    what = error.what if isinstance(error, CoexecError) else type(error).__name__
    found = error.found if isinstance(error, CoexecError) else str(error)
    return Fault(device, devices[device].facts.name if device in devices else device, _called(node), kernel,
                 f"{what}: {found}" if found not in (None, "") else what, error)


def unfinished(prepared: PreparedRun, device: str) -> tuple[Node | None, str]:
    """The first piece that the device was given and has not done, with its kernel's name."""
    slots = prepared._number_pieces()
    for step, kernel in prepared.kernels.items():
        if isinstance(step, Start) and step.device == device and step.index >= 0:
            event = prepared.events[slots[device, step.index]]
            try:
                if event is not None and not event.done:
                    return step.node, kernel.implementation
            except Exception:  # a lost device may not answer this either
                return step.node, kernel.implementation
    return None, ""


def _called(node: Node | None) -> str:
    return "" if node is None else f"{node.op_type} '{node.name}'"


def without_devices(graph: Graph, plan: Plan, fault: Fault | str) -> Plan:
    """The plan with everything on the CPU; each node that moves says why."""
    note = f"gpu: quarantined, {fault}" if isinstance(fault, str) else f"{fault.device}: quarantined, {fault.what}"
    nodes = {n.name: n for n in graph.nodes}
    kept = tuple(p if set(p.devices) <= {HOST} else on_one_device(nodes[p.name], HOST, note=note) for p in plan.partitions)
    return replace(plan, partitions=kept)


def retire(prepared: PreparedRun, hung: bool = False) -> None:
    """Closes a run whose device failed. One that hangs is kept as it is: the device may still read and write its memory."""
    if hung:
        abandon(prepared)
        return
    try:
        prepared.close()
    except Exception as error:  # it failed before, and that was reported
        log.info("while closing after a fault: %s", error)


def abandon(thing: Any) -> None:
    """Keeps something for the life of the process, because letting go of it would call a driver that cannot answer."""
    _abandoned.append(thing)


def has_nan(arrays: Iterable[Any]) -> bool:
    """True where a floating-point array holds a NaN: a minimum is one where any element is, and is found at the memory's speed."""
    for array in arrays:
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.size:
            least = array.min()
            if least != least:
                return True
    return False


def same_nans(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """True where both answers have a NaN in the same places."""
    return all(np.array_equal(np.isnan(found[name]), np.isnan(array)) for name, array in expected.items()
               if isinstance(array, np.ndarray) and array.dtype.kind == "f")

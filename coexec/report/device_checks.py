"""Diagnoses of what an OpenCL device says of itself: what it will not share, and what it will not take."""

from __future__ import annotations

from collections.abc import Iterator

from .machine import Machine
from .problem import Problem

#: Kernels are written for at least so many work-items a group; each has a form for fewer, which does less at once.
LEAST_GROUP = 64
#: Activations lie in one allocation, and a detector's for large pictures take this much.
LEAST_ALLOCATION_BYTES = 256 << 20


def memory_not_shared(machine: Machine) -> Iterator[Problem]:
    for device in machine.usable:
        if list(device.get("sharing", ())) == ["copy"]:
            yield Problem(
                f"{device['name']} and the CPU have a memory each",
                "its driver offers neither shared virtual memory nor buffers in the host's, so what crosses is copied, and small operators are "
                "better left whole",
                "nothing where the GPU has memory of its own; on a board with one memory for both, update the driver",
                "note" if device.get("emulated") else "warning",
            )


def small_work_groups(machine: Machine) -> Iterator[Problem]:
    for device in machine.usable:
        most = device.get("max_work_group_size")
        if most is not None and most < LEAST_GROUP:
            yield Problem(
                f"{device['name']} takes at most {most} work-items at once",
                f"its driver says so (CL_DEVICE_MAX_WORK_GROUP_SIZE); kernels are quickest with {LEAST_GROUP} and more",
                "let kernels be chosen for it: coexec run model.onnx --random --tune 60s; or update the driver",
                "note",
            )


def small_allocations(machine: Machine) -> Iterator[Problem]:
    for device in machine.usable:
        most = device.get("max_alloc_bytes")
        if most is not None and most < LEAST_ALLOCATION_BYTES:
            yield Problem(
                f"{device['name']} gives out at most {most >> 20} MiB at once",
                "its driver says so (CL_DEVICE_MAX_MEM_ALLOC_SIZE), and a run's activations lie in one allocation",
                "export COEXEC_MEMORY_LIMIT=" + f"{most >> 20}M" + " refuses models that need more before they run; they run with --strategy cpu",
                "note",
            )


DEVICE_CHECKS = (memory_not_shared, small_work_groups, small_allocations)

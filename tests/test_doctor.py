"""`coexec doctor` on made-up machines: one file system per diagnosis, and what it must not say elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from coexec.devices.base import Kernel
from coexec.devices.cpu import jit
from coexec.devices.null.device import NullDevice, NullQueue
from coexec.devices.registry import cpu_device, gpu_device
from coexec.errors import DeviceError
from coexec.report import doctor, self_test
from coexec.report.board import count_cores
from coexec.report.machine import EXTRAS, Machine, look, may_open

from .runtime.test_trace import ShiftedTimer

GPU = {"spec": "ARM Platform:Mali-G610", "name": "Mali-G610", "emulated": False, "problem": None}
POCL = {"spec": "Portable Computing Language:cpu", "name": "cpu", "emulated": True, "problem": None}


class Board:
    """A file system that tests fill, and the user who looks at it."""

    def __init__(self, root: Path):
        self.root = root
        self.file("usr/lib/aarch64-linux-gnu/libOpenCL.so.1")
        self.file("etc/passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
        self.file("etc/group", f"root:x:0:\nrender:x:{os.getgid()}:\n")

    def file(self, path: str, text: str = "", mode: int = 0o644) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
        return target

    def link(self, path: str, to: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(to)

    def driver(self, name: str, library: str, installed: bool = True) -> None:
        self.file(f"etc/OpenCL/vendors/{name}.icd", library + "\n")
        if installed:
            self.file(f"usr/lib/aarch64-linux-gnu/{library}")

    def look(self, devices=(), user=4242, groups=frozenset({4242}), trouble="", **environment) -> Machine:
        seen = look(self.root, user=user, groups=groups, environment=environment, cache_dir=self.root / "cache", opencl=False)
        return Machine(**{**seen.__dict__, "devices": tuple(devices), "pyopencl_problem": trouble, "missing_extras": ()})

    def problems(self, *args, **kwargs) -> dict[str, doctor.Problem]:
        return {p.what: p for p in doctor.diagnose(self.look(*args, **kwargs))}


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def only(problems: dict[str, doctor.Problem]) -> doctor.Problem:
    assert len(problems) == 1, list(problems)
    return next(iter(problems.values()))


def test_a_healthy_board_has_no_problems(board):
    board.driver("mali", "libmali.so.1")
    board.file("dev/mali0", mode=0o666)
    assert board.problems([GPU]) == {}


def test_no_driver_registered(board):
    found = only(board.problems())
    assert found.severity == "error" and "/etc/OpenCL/vendors holds no .icd" in found.why and "pocl-opencl-icd" in found.fix


def test_drivers_sent_elsewhere_by_a_variable(board):
    board.driver("pocl", "libpocl.so.2")
    assert only(board.problems(OCL_ICD_VENDORS="/nowhere")).fix == "unset OCL_ICD_VENDORS"


def test_no_loader(board):
    (board.root / "usr/lib/aarch64-linux-gnu/libOpenCL.so.1").unlink()
    found = board.problems(trouble="libOpenCL.so.1: cannot open shared object file")
    assert found["no OpenCL loader"].severity == "error" and "ocl-icd-libopencl1" in found["no OpenCL loader"].fix
    assert "cannot open" in found["pyopencl does not work"].why
    assert "no OpenCL loader" not in board.problems([GPU])


def test_icd_file_without_its_library(board):
    board.driver("mali", "libmali.so.1", installed=False)
    found = board.problems()
    assert found["/etc/OpenCL/vendors/mali.icd names a driver that is not there"].severity == "error"
    assert "libmali.so.1" in found["/etc/OpenCL/vendors/mali.icd names a driver that is not there"].why


def test_icd_file_with_an_absolute_path(board):
    board.file("etc/OpenCL/vendors/mali.icd", "/opt/mali/lib/libmali.so\n")
    assert "/etc/OpenCL/vendors/mali.icd names a driver that is not there" in board.problems([GPU])
    board.file("opt/mali/lib/libmali.so")
    board.file("dev/mali0", mode=0o666)
    assert board.problems([GPU]) == {}


def test_empty_icd_file(board):
    board.file("etc/OpenCL/vendors/broken.icd")
    found = only(board.problems([GPU]))
    assert found.why == "the file is empty" and found.severity == "note"


def test_vendor_library_that_is_not_registered(board):
    board.file("usr/lib/aarch64-linux-gnu/libmali.so.1")
    board.file("usr/lib/aarch64-linux-gnu/libmali.so.1.9.0")
    board.file("dev/mali0", mode=0o666)
    found = board.problems()["/usr/lib/aarch64-linux-gnu/libmali.so.1 is installed but not registered"]
    assert found.severity == "error"
    assert found.fix == "echo /usr/lib/aarch64-linux-gnu/libmali.so.1 | sudo tee /etc/OpenCL/vendors/mali.icd"
    assert len([w for w in board.problems() if "not registered" in w]) == 1


@pytest.mark.parametrize("node", ["dev/mali0", "dev/kgsl-3d0", "dev/dri/renderD128"])
def test_device_node_without_permission(board, node):
    board.driver("pocl", "libpocl.so.2")
    board.file(node, mode=0o660)
    found = board.problems([GPU])[f"4242 may not open /{node}"]
    assert "sudo usermod -aG render 4242" in found.fix and found.severity == "error"
    assert board.problems([GPU], groups=frozenset({os.getgid()})) == {}
    assert board.problems([GPU], user=0) == {}


def test_device_node_that_only_root_may_open_names_a_group(board):
    board.file("etc/group", f"root:x:{os.getgid()}:\n")
    board.driver("mali", "libmali.so.1")
    board.file("dev/mali0", mode=0o600)
    found = only(board.problems([GPU], user=1000))
    assert found.what == "ann may not open /dev/mali0" and "usermod -aG render ann" in found.fix and "chgrp render /dev/mali0" in found.fix


@pytest.mark.parametrize(
    "mode, user, groups, allowed",
    [
        (0o660, 5, {7}, True),
        (0o660, 9, {7}, True),
        (0o660, 9, {8}, False),
        (0o606, 9, {8}, True),
        (0o606, 9, {7}, False),
        (0o440, 9, {7}, False),
        (0o000, 0, {0}, True),
        (0o066, 5, {7}, False),
    ],
)
def test_may_open_is_what_the_kernel_would_say(mode, user, groups, allowed):
    assert may_open(mode, 5, 7, user, frozenset(groups)) is allowed


def test_vendor_driver_while_the_kernel_runs_the_free_one(board):
    board.driver("mali", "libmali.so.1")
    board.file("dev/dri/renderD128", mode=0o666)
    board.link("sys/class/drm/renderD128/device/driver", "../../../bus/platform/drivers/panthor")
    found = board.problems([POCL])["libmali.so.1 has no kernel driver to talk to"]
    assert "panthor" in found.why and "RUSTICL_ENABLE=panfrost" in found.fix


def test_vendor_driver_without_a_device_node(board):
    board.driver("mali", "libmali.so.1")
    assert "/dev/mali0" in board.problems([POCL])["libmali.so.1 has no kernel driver to talk to"].why


HIDDEN = "Mesa's OpenCL driver (rusticl) hides its devices"


@pytest.mark.parametrize("kernel_driver, name", [("panthor", "panfrost"), ("panfrost", "panfrost"), ("msm", "freedreno"), ("i915", "iris")])
def test_rusticl_hides_its_devices(board, kernel_driver, name):
    board.driver("rusticl", "libRusticlOpenCL.so.1")
    board.file("dev/dri/renderD128", mode=0o666)
    board.link("sys/class/drm/renderD128/device/driver", f"../../drivers/{kernel_driver}")
    found = only(board.problems())
    assert found.what == HIDDEN and found.fix == f"export RUSTICL_ENABLE={name}" and found.severity == "error"
    assert board.problems([POCL])[HIDDEN].severity == "warning"
    assert board.problems([GPU])[HIDDEN].severity == "note"
    assert HIDDEN not in board.problems(RUSTICL_ENABLE=name)


def test_rusticl_without_a_gpu_matters_only_where_nothing_else_works(board):
    board.driver("rusticl", "libRusticlOpenCL.so.1")
    assert only(board.problems()).fix == "export RUSTICL_ENABLE=llvmpipe"
    assert HIDDEN not in board.problems([POCL])


def test_registered_drivers_that_show_nothing(board):
    board.driver("qcom", "libOpenCL_adreno.so")
    found = only(board.problems())
    assert found.what == "drivers are registered but show no device" and "clinfo" in found.fix


def test_device_that_cannot_be_used(board):
    board.driver("old", "libold.so")
    old = {**GPU, "problem": "it speaks OpenCL 1.1, OpenCL 1.2 is needed"}
    found = board.problems([old])["ARM Platform:Mali-G610 cannot be used"]
    assert "OpenCL 1.1" in found.why and found.severity == "error"
    assert board.problems([old, GPU])["ARM Platform:Mali-G610 cannot be used"].severity == "note"


def test_emulated_devices_are_named_as_such(board):
    board.driver("pocl", "libpocl.so.2")
    found = only(board.problems([POCL]))
    assert "CPU's own cores" in found.what and found.severity == "note"


def test_a_device_that_shares_no_memory(board):
    problem = only(board.problems([{**GPU, "sharing": ["copy"]}]))
    assert problem.severity == "warning" and "Mali-G610" in problem.what and "copied" in problem.why and "update the driver" in problem.fix
    assert not board.problems([{**GPU, "sharing": ["use-host", "copy"]}])
    emulated = [p for what, p in board.problems([{**POCL, "sharing": ["copy"]}]).items() if "memory each" in what]
    assert [p.severity for p in emulated] == ["note"]


def test_a_device_with_small_limits(board):
    problem = only(board.problems([{**GPU, "max_work_group_size": 16, "max_alloc_bytes": 1 << 30}]))
    assert "at most 16 work-items" in problem.what and "--tune" in problem.fix
    problem = only(board.problems([{**GPU, "max_work_group_size": 256, "max_alloc_bytes": 128 << 20}]))
    assert "at most 128 MiB" in problem.what and "COEXEC_MEMORY_LIMIT=128M" in problem.fix


def test_cores_held_at_their_lowest_clock(board):
    board.driver("mali", "libmali.so.1")
    board.file("dev/mali0", mode=0o666)
    for core, governor, driver in ((0, "powersave", "cpufreq-dt"), (1, "schedutil", "cpufreq-dt"), (2, "powersave", "intel_pstate")):
        board.file(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor", governor + "\n")
        board.file(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_driver", driver + "\n")
    found = only(board.problems([GPU]))
    assert found.what == "1 core(s) are held at their lowest clock" and "cpu0" in found.why and "schedutil" in found.fix


def tree(board: Board, names: str, node: str = "gpu@fb000000", status: str = "okay") -> None:
    board.file(f"sys/firmware/devicetree/base/{node}/compatible", names.replace(" ", "\0") + "\0")
    board.file(f"sys/firmware/devicetree/base/{node}/status", status + "\0")


@pytest.mark.parametrize("names, module", [("rockchip,rk3588-mali arm,mali-valhall-csf", "panthor"), ("arm,mali-bifrost", "panfrost"),
                                           ("qcom,adreno-740.1 qcom,adreno", "msm"), ("brcm,2712-v3d", "v3d")])  # fmt: skip
def test_a_gpu_that_no_kernel_driver_has(board, names, module):
    tree(board, names)
    board.driver("pocl", "libpocl.so.2")
    found = board.problems([POCL])[f"no kernel driver has the GPU {names.split()[0]}"]
    assert found.severity == "error" and found.fix.startswith(f"sudo modprobe {module};")
    board.link("sys/bus/platform/devices/fb000000.gpu/driver", f"../../../bus/platform/drivers/{module}")
    assert not [w for w in board.problems([POCL]) if "no kernel driver has" in w]


def test_a_gpu_that_the_device_tree_switches_off_or_the_vendors_driver_has_is_no_problem(board):
    board.driver("mali", "libmali.so.1")
    tree(board, "arm,mali-bifrost", status="disabled")
    assert not [w for w in board.problems([GPU]) if "no kernel driver has" in w]
    tree(board, "arm,mali-bifrost")
    assert [w for w in board.problems([GPU]) if "no kernel driver has" in w]
    board.file("dev/mali0", mode=0o666)
    assert board.problems([GPU]) == {}


def test_a_pci_gpu_without_a_driver(board):
    for name, text in (("vendor", "0x1002"), ("device", "0x1638"), ("class", "0x030000")):
        board.file(f"sys/bus/pci/devices/0000:04:00.0/{name}", text + "\n")
    board.driver("pocl", "libpocl.so.2")
    found = board.problems([POCL])["no kernel driver has the GPU PCI 0000:04:00.0 0x1002:0x1638"]
    assert "modprobe amdgpu" in found.fix
    board.link("sys/bus/pci/devices/0000:04:00.0/driver", "../../drivers/amdgpu")
    assert not [w for w in board.problems([POCL]) if "no kernel driver has" in w]


def test_a_container_that_was_given_no_gpu(board):
    tree(board, "arm,mali-valhall-csf")
    board.link("sys/bus/platform/devices/fb000000.gpu/driver", "../../drivers/panthor")
    board.driver("pocl", "libpocl.so.2")
    assert "this container sees no GPU" not in board.problems([POCL])
    board.file(".dockerenv")
    found = board.problems([POCL])["this container sees no GPU"]
    assert found.severity == "warning" and "--device /dev/dri" in found.fix
    board.file("dev/dri/renderD128", mode=0o666)
    assert "this container sees no GPU" not in board.problems([POCL])


@pytest.mark.parametrize("said, meant", [("panthor", "panfrost"), ("msm", "freedreno"), ("llvmpipe,panthor", "panfrost"), ("panthor:0", "panfrost")])
def test_rusticl_asked_for_by_the_kernels_name(board, said, meant):
    board.driver("rusticl", "libRusticlOpenCL.so.1")
    found = [p for p in board.problems(RUSTICL_ENABLE=said).values() if p.what.startswith("RUSTICL_ENABLE=")]
    assert [p.fix for p in found] == [f"export RUSTICL_ENABLE={meant}"]
    assert not [w for w in board.problems(RUSTICL_ENABLE=meant) if w.startswith("RUSTICL_ENABLE=")]


def test_rusticl_hides_half_precision(board):
    board.driver("rusticl", "libRusticlOpenCL.so.1")
    device = {**GPU, "spec": "rusticl:Mali-G610"}
    assert only(board.problems([device], RUSTICL_ENABLE="panfrost")).fix == "export RUSTICL_FEATURES=fp16"
    assert board.problems([device], RUSTICL_ENABLE="panfrost", RUSTICL_FEATURES="fp16") == {}


def test_a_variable_that_ocl_icd_ignores(board):
    board.driver("mali", "libmali.so.1")
    board.file("dev/mali0", mode=0o666)
    found = board.problems(OCL_ICD_FILENAMES="/opt/mali/libmali.so")["OCL_ICD_FILENAMES may be ignored"]
    assert found.fix == "echo /opt/mali/libmali.so | sudo tee /etc/OpenCL/vendors/board.icd"
    assert board.problems([GPU], OCL_ICD_FILENAMES="/opt/mali/libmali.so") == {}


def test_a_driver_for_another_processor(board):
    board.driver("mali", "libmali.so.1")
    board.file("dev/mali0", mode=0o666)
    library = board.root / "usr/lib/aarch64-linux-gnu/libmali.so.1"
    for machine, foreign in ((40, True), (183, False)):  # 32-bit Arm, 64-bit Arm
        library.write_bytes(b"\x7fELF\x02\x01" + bytes(12) + machine.to_bytes(2, "little") + bytes(44))
        seen = look(board.root, environment={}, cache_dir=board.root / "cache", opencl=False, arch="aarch64")
        assert [p.what for p in doctor.diagnose(seen) if "another processor" in p.what] == (
            ["libmali.so.1 is made for another processor"] if foreign else [])  # fmt: skip


def test_a_library_newer_than_the_kernels_driver(board):
    """As on Rockchip's boards: libmali-valhall-g610-g18p0-x11-wayland-gbm.so beside a module of g13."""
    name = "libmali-valhall-g610-g18p0-gbm.so"
    board.driver("mali", name)
    board.file("dev/mali0", mode=0o666)
    module = "sys/module/bifrost_kbase/version"
    board.file(module, "g13p0-01eac0 (UK version 11.38)\n")
    found = board.problems([POCL])[f"{name} and the kernel's driver are of different releases"]
    assert found.severity == "error" and "release 18" in found.why and "package of release 13" in found.fix
    board.file(module, "g21p0-01eac0\n")
    assert board.problems([POCL])[f"{name} and the kernel's driver are of different releases"].severity == "warning"
    assert only(board.problems([GPU])).severity == "note"
    board.file(module, "g18p0-01eac0\n")
    assert board.problems([GPU]) == {}


def test_a_gpu_held_at_its_lowest_clock(board):
    board.driver("mali", "libmali.so.1")
    board.file("dev/mali0", mode=0o666)
    board.file("sys/class/devfreq/fb000000.gpu/governor", "powersave\n")
    board.file("sys/class/devfreq/fb000000.gpu/available_governors", "performance simple_ondemand powersave\n")
    board.file("sys/class/devfreq/dmc/governor", "powersave\n")
    found = only(board.problems([GPU]))
    assert found.fix == "echo simple_ondemand | sudo tee /sys/class/devfreq/fb000000.gpu/governor" and found.severity == "warning"
    board.file("sys/class/devfreq/fb000000.gpu/governor", "simple_ondemand\n")
    assert board.problems([GPU]) == {}


def test_a_hot_board(board):
    board.driver("other", "libother.so")
    board.file("sys/class/thermal/thermal_zone0/temp", "40000\n")
    assert board.problems([GPU]) == {}
    board.file("sys/class/thermal/thermal_zone1/temp", "91500\n")
    board.file("sys/class/thermal/thermal_zone1/type", "gpu-thermal\n")
    assert only(board.problems([GPU])).what == "gpu-thermal is at 92 C"


def test_cores_that_may_not_be_used(board):
    board.driver("other", "libother.so")
    board.file("sys/devices/system/cpu/online", "0-7\n")
    board.file("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-2,5\n")
    found = only(board.problems([GPU]))
    assert found.what == "only 4 of 8 cores may be used" and "taskset -c 0-7" in found.fix
    board.file("proc/self/status", "Cpus_allowed_list:\t0-7\n")
    assert board.problems([GPU]) == {}


@pytest.mark.parametrize("text, count", [("0-3,6", 5), ("0", 1), ("", 0), ("all", 0), ("1-x", 0)])
def test_lists_of_cores(text, count):
    assert count_cores(text) == count


def test_a_cache_on_a_full_disk_or_left_by_root(tmp_path):
    healthy = Machine(loaders=("/l.so",), devices=(GPU,), cache_dir="/c", user="ann", cache_free_bytes=10**9)
    assert doctor.diagnose(healthy) == []
    full = doctor.diagnose(Machine(**{**healthy.__dict__, "cache_free_bytes": 5_000_000}))
    assert [p.what for p in full] == ["the disk of /c is nearly full"] and "5 MB" in full[0].why
    (tmp_path / "opencl").mkdir(mode=0o755)
    seen = look(tmp_path, user=4242, groups=frozenset({4242}), environment={}, cache_dir=tmp_path, opencl=False)
    assert seen.foreign_cache == str(tmp_path / "opencl")
    found = doctor.diagnose(Machine(**{**healthy.__dict__, "foreign_cache": seen.foreign_cache}))
    assert [p.fix for p in found] == ["sudo chown -R ann /c"]


def test_cache_that_cannot_be_written(board):
    board.driver("other", "libother.so")
    board.file("cache", "a file where the folder should be")
    found = only(board.problems([GPU]))
    assert str(board.root / "cache") in found.what and "COEXEC_CACHE_DIR" in found.fix and found.severity == "warning"


def test_missing_extras_name_what_to_install():
    found = doctor.diagnose(Machine(loaders=("/usr/lib/libOpenCL.so.1",), devices=(GPU,), missing_extras=tuple(EXTRAS)))
    assert sorted(p.fix for p in found) == sorted(f"pip install 'coexec[{extra}]'" for extra in EXTRAS)
    assert {p.severity for p in found} == {"note"}


def test_what_is_looked_at_is_told(board):
    tree(board, "arm,mali-valhall-csf")
    for core in range(4):
        board.file(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor", ("schedutil" if core else "performance") + "\n")
    board.file("sys/class/devfreq/fb000000.gpu/governor", "simple_ondemand\n")
    seen = board.look([GPU]).board
    assert seen.governors == ("1 core(s) by performance", "3 core(s) by schedutil", "fb000000.gpu by simple_ondemand")
    assert [(g.name, g.module, g.driven) for g in seen.hardware] == [("arm,mali-valhall-csf", "panthor", False)]


def test_a_driver_that_is_really_taken_away(tmp_path):
    """This machine's own command, with the loader sent where no driver is registered, and then to one whose library is gone."""
    def doctor_says(**changed):
        env = {k: v for k, v in os.environ.items() if k not in ("OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH")} | changed
        env |= {"COEXEC_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": jit.cache_dir()}  # the same kernels as here
        done = subprocess.run([sys.executable, "-m", "coexec", "doctor", "--json"], env=env, capture_output=True, text=True, timeout=120)
        told = json.loads(done.stdout)
        return done, told, {p["what"]: p for p in told["problems"]}

    (tmp_path / "vendors").mkdir()
    gone = {"OCL_ICD_VENDORS": str(tmp_path / "vendors"), "OPENCL_VENDOR_PATH": str(tmp_path / "vendors")}
    done, told, problems = doctor_says(**gone)
    assert done.returncode == 3 and "Traceback" not in done.stderr and [d["unit"] for d in told["devices"]] == ["cpu"]
    assert problems["no OpenCL driver is registered"]["fix"] == "unset OCL_ICD_VENDORS" and told["cache"]["profiles"] == 0
    assert told["devices"][0]["self_test"]["ok"], "the CPU works anyway"
    (tmp_path / "vendors/gone.icd").write_text("libgone.so.1\n")
    done, told, problems = doctor_says(**gone)
    assert done.returncode == 3 and f"{tmp_path}/vendors/gone.icd names a driver that is not there" in problems
    done, told, problems = doctor_says()
    assert done.returncode == 0 and "gpu" in [d["unit"] for d in told["devices"]], "and with the driver back it is found"


def test_grave_problems_come_first(board):
    board.file("cache", "")
    severities = [p.severity for p in doctor.diagnose(board.look())]
    assert severities == sorted(severities, key=("error", "warning", "note").index) and severities[0] == "error"


def test_this_machine_can_be_looked_at():
    machine = look(opencl=False)
    assert machine.cache_dir and all(icd.file.endswith(".icd") for icd in machine.icds)


def test_self_test_passes_on_the_cpu():
    found = self_test.self_test(cpu_device())
    assert found["ok"] and found["max_rel_error"] < 1e-5


class Broken:
    """The CPU, but its kernels do something else."""

    def __init__(self, start):
        self._device, self._start = cpu_device(), start

    def allocate(self, nbytes):
        return self._device.allocate(nbytes)

    def queue(self, threads):
        queue, start = self._device.queue(threads), self._start
        compiled = queue.compile

        def compile(*args):
            kernel = compiled(*args)

            class Wrong(Kernel):
                def start(self):
                    return start(kernel, args)

            return Wrong()

        queue.compile = compile
        return queue


def _scaled(kernel, args):
    event = kernel.start()
    args[3][0].array[...] *= np.float32(1.01)
    return event


def _idle(kernel, args):
    from coexec.devices.base import DONE

    return DONE


def _fails(kernel, args):
    raise DeviceError("the driver gave up", where="fake")


@pytest.mark.parametrize("start, said", [(_scaled, "off by 0.0"), (_idle, "off by nan"), (_fails, "[fake] the driver gave up")])
def test_self_test_finds_a_device_that_computes_wrongly(start, said):
    found = self_test.self_test(Broken(start))
    assert not found["ok"] and said in found["error"]


# How a driver behaves while work runs


class BusyQueue(NullQueue):
    def finish(self):
        while time.perf_counter() < self.busy_until:
            pass


class Busy(NullDevice):
    """Its driver looks again and again instead of sleeping."""

    def queue(self, threads=1):
        return BusyQueue(self)


def test_a_driver_that_waits_busily_is_told_from_one_that_sleeps():
    sleeps, busy = self_test.habits_of(NullDevice("gpu", 0.004)), self_test.habits_of(Busy("gpu", 0.004))
    assert sleeps.waiting_core + 0.1 < busy.waiting_core <= 1.01
    (problem,) = self_test.problems_of("Mali", self_test.Habits(0.97, ""))
    assert problem.severity == "warning" and "Mali keeps a core busy" in problem.what and "97%" in problem.why and "COEXEC_WAIT=poll" in problem.fix
    assert not list(self_test.problems_of("Mali", self_test.Habits(0.3, ""))) and not list(self_test.problems_of("Mali", self_test.Habits(None, "")))


def test_a_device_that_is_not_waited_for_or_fails_has_no_habits():
    assert self_test.habits_of(cpu_device()) is None
    assert self_test.habits_of(NullDevice("gpu", declined=["Conv"])) is None


@pytest.mark.parametrize(
    "timer, why",
    [
        (lambda: ShiftedTimer(), ""),
        (lambda: None, "gives no times"),
        (lambda: ShiftedTimer(rate=1.5), "drifts|no clock could show"),
        (lambda: ShiftedTimer(early_ns=10**9), "before it was enqueued"),
        (lambda: ShiftedTimer(early_ns=-(10**9)), "after the host saw it done"),
    ],
)
def test_event_times_that_cannot_be_true_are_noticed(monkeypatch, timer, why):
    monkeypatch.setattr(self_test, "timed", lambda queue: timer())
    habits = self_test.habits_of(NullDevice("gpu", 0.004))
    problems = list(self_test.problems_of("Mali", habits))
    if not why:
        assert habits.clock == "" and not problems
    else:
        assert re.search(why, habits.clock) and problems[0].severity == "note" and "Mali" in problems[0].what


def test_this_machines_driver_sleeps_and_tells_the_time():
    device = gpu_device()
    habits = self_test.habits_of(device)
    assert habits is not None and (habits.waiting_core is None or 0 <= habits.waiting_core <= 1.01)
    if "Portable Computing Language" in device.facts.driver:
        assert habits.clock == "" and not list(self_test.problems_of(device.facts.name, habits))

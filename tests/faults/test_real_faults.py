"""Faults as a driver, the system and a person make them: nothing here is injected between coexec and OpenCL but what really goes wrong."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import onnx
import pyopencl as cl
import pytest

import coexec
from coexec import settings
from coexec.api.planning import cached_profile
from coexec.devices.opencl import launch, memory, program, tuning
from coexec.devices.registry import gpu_device
from coexec.errors import DeviceLost, KernelBuildError
from coexec.profiles import save_profile
from tests.device.test_waits import profiled
from tests.test_smoke import light_model, tiny_model

X = np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    with coexec.InferenceSession(tiny_model(), strategy="cpu") as session:
        return session.run(None, {"x": X})[0]


def split(**options) -> coexec.InferenceSession:
    return coexec.InferenceSession(tiny_model(), coexec.SessionOptions(**options), strategy="fixed:gpu=0.5")


def warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_kernel_whose_source_is_broken(monkeypatch, expected, caplog):
    """The driver's own compiler refuses every program."""
    program.forget()
    whole = program.source

    monkeypatch.setattr(program, "source", lambda name: whole(name) + "\n#error injected\n")
    with settings.override(self_test=False), split() as session:
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert session.plan.devices == {"cpu"}
    said, = warnings(caplog)
    assert "conv" in said and "injected" in said
    with settings.override(self_test=False), pytest.raises(KernelBuildError, match="injected"):
        split(strict=True)


@pytest.mark.parametrize("strict", [False, True])
def test_an_enqueue_that_the_driver_refuses(monkeypatch, expected, caplog, strict):
    """A work-group larger than any device has."""
    with split(strict=strict) as session:
        session.run(None, {"x": X})
        started = launch.ClKernel.start
        kernel = next(k for s, k in session._ready.kernels.items() if s.device == "gpu")
        kernel.launches = tuple(one._replace(local_size=(1 << 20,) * len(one.global_size)) for one in kernel.launches)
        if strict:
            with pytest.raises(DeviceLost, match="Conv 'conv'"):
                session.run(None, {"x": X})
            return
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        fault, = session.faults
        assert fault.node == "Conv 'conv'" and fault.kernel == kernel.implementation and launch.ClKernel.start is started
    said, = warnings(caplog)
    assert fault.node in said and fault.kernel in said and fault.facts in said


def test_more_memory_than_the_device_has(monkeypatch, expected, caplog):
    """Activations beyond what the device allocates in one piece: the limit is the driver's, the request is what is made too large."""
    allocate = memory.allocate
    monkeypatch.setattr(memory, "allocate", lambda context, make, nbytes: allocate(context, make, nbytes + (1 << 50)))
    with settings.override(self_test=False), split() as session:
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert session.plan.devices == {"cpu"}
    said, = warnings(caplog)
    assert "cannot allocate memory" in said


@pytest.mark.usefixtures("pocl")
def test_an_event_that_ends_with_an_error(monkeypatch, expected, caplog):
    """A wait on a user event that was set to an error, as a lost device sets its own."""
    with split() as session:
        session.run(None, {"x": X})
        prepared = session._ready
        broken = cl.UserEvent(session.devices["gpu"].context)
        broken.set_status(-5)
        place = next(i for i, (step, _) in enumerate(prepared.actions) if type(step).__name__ == "Wait")
        owner = next(k for s, k in prepared.kernels.items() if s.device == "gpu")
        prepared.hot[place] = launch.ClEvent(broken, owner).wait
        np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
        assert session.faults[0].node == "Conv 'conv'"
    assert len(warnings(caplog)) == 1


def spoil(folder, how: str) -> int:
    """Every file below the folder; how many there were."""
    count = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        count += 1
        if how == "deleted":
            path.unlink()
        elif how == "emptied":
            path.write_bytes(b"")
        elif how == "cut short":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            path.write_bytes(os.urandom(path.stat().st_size))
    return count


@pytest.mark.parametrize("how", ["deleted", "emptied", "cut short", "noise"])
def test_the_cache_is_spoilt_while_a_session_runs(tmp_path, monkeypatch, expected, caplog, how):
    """The session that runs, one that is made afterwards, and the tuner's table; PoCL is told to keep its binaries with us as others do."""
    monkeypatch.setattr(program, "_has", lambda device, quirk: False)
    with settings.override(cache_dir=tmp_path):
        program.forget()
        tuning.forget()
        with split() as session:
            session.run(None, {"x": X})
            node = session.graph.nodes[0]
            tuning._store(session.devices["gpu"].facts, tuning.shape_key(node, coexec.regions.Region.whole(node.output.shape)),
                          {"tiles": {}, "us": 1.0})
            assert spoil(tmp_path, how) >= 2
            np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
            program.forget()
            tuning.forget()
            with split() as other:
                np.testing.assert_allclose(other.run(None, {"x": X})[0], expected, rtol=1e-4, atol=1e-5)
                assert "gpu" in other.plan.devices
        assert not [p for p in tmp_path.rglob("*.part")]
    assert not warnings(caplog)


#: Forking with threads is what some of these try: Python 3.12 and later warn of it.
HERE = {"PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]), "PYTHONWARNINGS": "ignore::DeprecationWarning"}


def python(code: str, folder, *arguments: str, **environment: str) -> subprocess.Popen:
    onnx.save(tiny_model(), folder / "m.onnx")
    np.save(folder / "x.npy", X)
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**os.environ, **HERE, **environment})


def ends_well(done: subprocess.Popen) -> None:
    """The process ends within a minute, and says that all was right."""
    try:
        _, err = done.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        done.kill()
        raise AssertionError("it hangs: " + done.communicate()[1][-2000:]) from None
    assert done.returncode == 0, err[-2000:]


ONCE = """
    import numpy as np, coexec
    x = np.load("x.npy")
    with coexec.InferenceSession("light.onnx", device_profile="board.yaml", strategy="fixed:gpu=0.5") as session:
        found = session.run(None, {"x": x})[0]
        from coexec.api.refinement import remember
        remember(session.plan, session.graph, session.profile, session.devices, 0)
    np.save("y.npy", found)
"""


def run_once(folder: Path) -> str:
    """A process with the cache and the key of that folder computes what is right; what it says on stderr."""
    done = python(ONCE, folder, COEXEC_CACHE_DIR=str(folder / "cache"), COEXEC_KEY_FILE=str(folder / "key"))
    _, err = done.communicate(timeout=120)
    assert done.returncode == 0 and "Traceback" not in err, err
    np.testing.assert_allclose(np.load(folder / "y.npy"), np.exp(X) / np.exp(X).sum(-1, keepdims=True), rtol=1e-4, atol=1e-5)
    assert not list(folder.rglob("*.part"))
    return err


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """A folder whose cache a process has filled."""
    folder = tmp_path_factory.mktemp("filled")
    onnx.save(light_model(), folder / "light.onnx")
    save_profile(profiled(gpu_device().facts.name), folder / "board.yaml")
    assert not run_once(folder)
    return folder


@pytest.mark.parametrize("how", ["deleted", "cut short", "noise", "a file in place of each folder"])
def test_the_whole_cache_is_spoilt_between_two_processes(tmp_path, filled, how):
    """Kernels of both processors, and the plan that was kept: the next process makes them anew, and says nothing."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    cache = tmp_path / "cache"
    if how.startswith("a file"):
        for folder in list(cache.iterdir()):
            shutil.rmtree(folder)
            folder.write_text("in the way")
    else:
        assert spoil(cache, how) > 4 and {p.name for p in cache.iterdir()} >= {"numba", "plans"}
    err = run_once(tmp_path)
    assert not err or how.startswith("a file") and "cannot be kept" in err, err


@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut short", "noise", "of a later version"])
def test_the_profile_in_the_cache_is_spoilt(tmp_path, monkeypatch, damage):
    """It is measured anew, and written anew."""
    made = profiled(gpu_device().facts.name)
    monkeypatch.setattr("coexec.profiling.run.profile_devices", lambda *_, **__: (made, []))
    monkeypatch.setattr("coexec.api.between.RunCosts.told", lambda _, profile: profile)
    with settings.override(cache_dir=tmp_path):
        cached_profile()
        path, = (tmp_path / "profiles").iterdir()
        good = path.read_text()
        if damage == "of a later version":
            path.write_text(good.replace("format: ", "format: 99"))
            assert path.read_text() != good
        else:
            spoil(tmp_path, damage)
        assert cached_profile() == made and path.read_text() == good


FORKED = """
    import os, sys, numpy as np, coexec
    strategy, strict = sys.argv[1], sys.argv[2] == "strict"
    x = np.load("x.npy")
    session = coexec.InferenceSession("m.onnx", coexec.SessionOptions(strict=strict), strategy=strategy)
    before = session.run(None, {"x": x})[0]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            first = session.run(None, {"x": x})[0]
            second = session.run(None, {"x": x})[0]
            other = coexec.InferenceSession("m.onnx", strategy="cpu").run(None, {"x": x})[0]
            code = (0 if np.allclose(first, before, atol=1e-5) and np.allclose(second, before, atol=1e-5)
                    and np.allclose(other, before, atol=1e-5) else 9)
        except coexec.errors.CoexecError as error:
            print(error, file=sys.stderr)
            code = error.exit_code
        finally:
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    after = session.run(None, {"x": x})[0]
    sys.exit(code if np.array_equal(before, after) else 8)
"""


@pytest.mark.parametrize("strategy, strict, code, says", [
    ("fixed:gpu=0.5", "no", 0, "forked"), ("fixed:gpu=0.5", "strict", 3, "forked"), ("cpu", "no", 0, ""), ("cpu", "strict", 0, "")])
def test_a_forked_process_goes_on_without_the_gpu(tmp_path, strategy, strict, code, says):
    done = python(FORKED, tmp_path, strategy, strict, COEXEC_THREADS="2")
    out, err = done.communicate(timeout=120)
    assert done.returncode == code, err
    assert says in err and "Traceback" not in err and err.count("\n") <= 1, err


FORKED_MEANWHILE = """
    import os, sys, threading, time, numpy as np, coexec
    x = np.load("x.npy")
    session = coexec.InferenceSession("m.onnx", strategy=sys.argv[1])
    before, stop = session.run(None, {"x": x})[0], []
    def busy():
        while not stop:
            session.run(None, {"x": x})
    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(8):
        time.sleep(0.01)
        child = os.fork()
        if child == 0:
            code = 9
            try:
                code = 0 if all(np.allclose(session.run(None, {"x": x})[0], before, atol=1e-5) for _ in range(2)) else 8
            finally:
                os._exit(code)
        end = time.monotonic() + 20
        while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.01)
        if done[1] or done == (0, 0):
            os.kill(child, 9)
            os._exit(7)
    stop.append(1)
    for thread in threads:
        thread.join()
    sys.exit(0 if np.allclose(session.run(None, {"x": x})[0], before, atol=1e-5) else 6)
"""


@pytest.mark.parametrize("strategy", ["cpu", "fixed:gpu=0.5"])
def test_a_process_is_forked_while_other_threads_run(tmp_path, strategy):
    """Those threads, and the locks they hold, are not there in the child."""
    ends_well(python(FORKED_MEANWHILE, tmp_path, strategy, COEXEC_THREADS="2"))


NO_ROOM = """
    import resource, sys, numpy as np, coexec
    from pathlib import Path
    from onnx import TensorProto, helper
    side = 1 << 13
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, side]), helper.make_tensor_value_info("y", TensorProto.FLOAT, [side, side])]
    column = helper.make_tensor("column", TensorProto.FLOAT, [side, 1], np.ones(side, np.float32))
    graph = helper.make_graph([helper.make_node("Add", ["x", "column"], ["y"], name="add")], "g", info[:1], info[1:], [column])
    session = coexec.InferenceSession(helper.make_model(graph), strategy=sys.argv[1])
    x = np.arange(side, dtype=np.float32)[None]
    def right():
        return np.array_equal(session.run(None, {"x": x})[0][::999], np.broadcast_to(x + 1, (side, side))[::999])
    assert right()
    most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    try:
        right()
        sys.exit(9)
    except MemoryError:
        pass
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    sys.exit(0 if right() and not session.faults else 8)
"""


@pytest.mark.parametrize("strategy", ["cpu", "fixed:gpu=0.5"])
def test_no_memory_is_left_for_the_outputs(tmp_path, strategy):
    """MemoryError, as NumPy says it; the session stays as it was."""
    ends_well(python(NO_ROOM, tmp_path, strategy))


HUNG = """
    import sys, time, numpy as np, coexec, pyopencl as cl
    from coexec.runtime import recovery
    recovery.FIRST_RUN_S = 0
    x = np.load("x.npy")
    strict = sys.argv[1] == "strict"
    session = coexec.InferenceSession("m.onnx", coexec.SessionOptions(strict=strict), strategy="fixed:gpu=0.5")
    with coexec.settings.override(timeout=0):
        before = session.run(None, {"x": x})[0]
    gpu = session.devices["gpu"]
    program = cl.Program(gpu.context, "kernel void stuck(global volatile int *p) { while (*p == 0) ; }").build()
    stuck, word = program.stuck, cl.Buffer(gpu.context, cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR, hostbuf=np.zeros(16, np.int32))
    stuck(session._ready.queues["gpu"].queue, (1,), (1,), word)
    started = time.perf_counter()
    try:
        found = session.run(None, {"x": x})[0]
        assert np.allclose(found, before, atol=1e-5) and np.allclose(session.run(None, {"x": x})[0], before, atol=1e-5)
        code = 0
    except coexec.errors.CoexecError as error:
        code = error.exit_code
        print(error, file=sys.stderr)
    assert time.perf_counter() - started < 10
    session.close()
    sys.stderr.flush()
    import os
    os._exit(code)
"""


@pytest.mark.parametrize("strict, code", [("no", 0), ("strict", 6)])
def test_a_kernel_that_never_ends(tmp_path, strict, code):
    """A real endless loop on the real device; the process is left by the short way, for the driver never ends."""
    done = python(HUNG, tmp_path, strict, COEXEC_TIMEOUT="1")
    out, err = done.communicate(timeout=120)
    assert done.returncode == code, err
    assert "did not answer" in err and "'" in err and "Traceback" not in err and err.count("\n") == 1, err


@pytest.mark.parametrize("strategy", ["cpu", "fixed:gpu=0.5"])
def test_ctrl_c_in_the_middle_of_the_command(tmp_path, strategy):
    """The command ends at once with 130, one line, no file half-written."""
    onnx.save(tiny_model(), tmp_path / "m.onnx")
    done = subprocess.Popen([sys.executable, "-m", "coexec", "run", "m.onnx", "--random", "--repeat", "100000000", "--strategy", strategy,
                             "-o", "out.npz"],
                            cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.getcwd(), "COEXEC_THREADS": "2"}, stderr=subprocess.PIPE, text=True)
    kill = threading.Timer(60, done.kill)
    kill.start()
    told = []
    for line in done.stderr:  # the runs have begun
        told.append(line.rstrip("\n"))
        if line.startswith("running "):
            break
    assert done.poll() is None, told
    done.send_signal(signal.SIGINT)
    _, err = done.communicate(timeout=20)
    kill.cancel()
    *progress, last = [*told, *err.splitlines()]
    assert done.returncode == 130 and last == "coexec: interrupted" and all(line.startswith(("running ", "preparing ")) for line in progress), err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


INTERRUPTED = """
    import os, signal, sys, threading, time, numpy as np, coexec
    x = np.load("x.npy")
    session = coexec.InferenceSession("m.onnx", strategy=sys.argv[1])
    before = session.run(None, {"x": x})[0]
    inside = [False]
    def interrupt(*_):
        if inside[0]:  # once a run, and never in this script's own lines
            inside[0] = False
            raise KeyboardInterrupt
    signal.signal(signal.SIGINT, interrupt)
    def pester():
        rng = np.random.default_rng(0)
        time.sleep(0.3)  # the main thread has come to its runs
        while True:
            time.sleep(rng.uniform(0.0005, 0.004))
            os.kill(os.getpid(), signal.SIGINT)
    caught = 0
    threading.Thread(target=pester, daemon=True).start()
    end = time.time() + 4
    while time.time() < end:
        try:
            inside[0] = True
            found = session.run(None, {"x": x})[0]
            inside[0] = False
            if not np.allclose(found, before, atol=1e-5):
                os._exit(9)
        except KeyboardInterrupt:
            caught += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    found = session.run(None, {"x": x})[0]
    ok = caught > 20 and np.allclose(found, before, atol=1e-5) and not session.faults
    print(caught, session.faults, file=sys.stderr)
    sys.exit(0 if ok else 8)
"""


@pytest.mark.parametrize("strategy", ["cpu", "fixed:gpu=0.5"])
def test_ctrl_c_hundreds_of_times_leaves_a_session_that_works(tmp_path, strategy):
    ends_well(python(INTERRUPTED, tmp_path, strategy, COEXEC_THREADS="2"))

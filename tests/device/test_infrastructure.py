"""The OpenCL device's own parts: finding devices, program cache, buffers, transfers, errors, scratch memory."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyopencl as cl
import pytest

from coexec import files, seals, settings
from coexec.devices.base import HostBuffer, TensorView
from coexec.devices.opencl import builder, list_devices, memory, open_device, platform, program
from coexec.devices.opencl.builder import ClOperand, Compile
from coexec.devices.opencl.device import OpenCLDevice
from coexec.devices.opencl.launch import ClKernel, Launch
from coexec.errors import DeviceError, KernelBuildError, NoDevice, UsageError
from coexec.regions import Region
from tests.ops.law import Const, make_node

from .conftest import device_of, name_of, variants
from .harness import everything, run_on_device

SOURCE = "kernel void twice(global float *x) { x[get_global_id(0)] *= 2; }"


# Devices


@pytest.fixture(scope="module", params=variants(every=True), ids=name_of)
def device(request: pytest.FixtureRequest) -> OpenCLDevice:
    """In every way of sharing memory."""
    return device_of(request.param)


def test_the_best_device_is_listed_first() -> None:
    rows = list_devices()
    assert rows[0]["name"] == platform.find_device("").name.strip()
    assert {"spec", "name", "kind", "driver", "emulated", "dtypes", "sharing", "problem"} <= set(rows[0])
    assert rows[0]["problem"] is None


def test_a_device_answers_to_its_label_its_index_and_parts_of_its_name() -> None:
    best = platform.find_device("")
    where, _, which = list_devices()[0]["spec"].partition(":")
    at = cl.get_platforms().index(best.platform)
    for spec in (f"{where}:{which}", where.upper(), f"{at}:0", f"{at}", f":{which[:6].lower()}", which):
        assert platform.find_device(spec) == best, spec


@pytest.mark.parametrize("spec", ["no such platform", "99", "0:99", ":no such device"])
def test_an_unknown_device_is_an_error_that_lists_what_there_is(spec: str) -> None:
    with pytest.raises(NoDevice, match="COEXEC_OPENCL") as caught:
        platform.find_device(spec)
    assert list_devices()[0]["spec"] in str(caught.value)


def test_the_setting_chooses_and_none_means_none() -> None:
    with settings.override(opencl="none"), pytest.raises(NoDevice, match="switched off"):
        open_device()
    with settings.override(opencl="nothing like it"), pytest.raises(NoDevice, match="nothing like it"):
        open_device()


def test_no_driver_gives_a_hint_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> list:
        raise cl.LogicError("clGetPlatformIDs failed: PLATFORM_NOT_FOUND_KHR")

    monkeypatch.setattr(cl, "get_platforms", nothing)
    with pytest.raises(NoDevice, match="pocl-opencl-icd"):
        platform.find_device("")
    assert list_devices() == []


def test_old_devices_are_skipped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "version", lambda device: (1, 1))
    with pytest.raises(NoDevice, match="OpenCL 1.2 is needed"):
        platform.find_device("")


def test_facts(device: OpenCLDevice) -> None:
    facts = device.facts
    assert {"float32", "int64", "bool"} <= facts.dtypes
    assert facts.sharing[-1] == "copy" and device.sharing in facts.sharing
    assert facts.compute_units >= 1 and facts.driver and facts.extra["max_work_group_size"] >= 1
    assert facts.emulated == (facts.kind == "cpu" or "llvmpipe" in facts.name)


def test_an_unknown_way_of_sharing_is_refused(device: OpenCLDevice) -> None:
    with pytest.raises(UsageError, match="cannot share memory that way"):
        OpenCLDevice(device.device, "telepathy")


# Programs


def _build_afresh(device: OpenCLDevice, text: str = SOURCE) -> cl.Program:
    program.forget()
    return program.build(device.context, text)


def _runs(device: OpenCLDevice, built: cl.Program) -> None:
    buffer = device.allocate(16)
    buffer.host.view(np.float32)[:] = 3
    queue = device.queue()
    view = everything(buffer_view(buffer))
    queue.upload(view).wait()
    kernel = program.kernel(built, "twice")
    kernel.set_arg(0, buffer.handle)
    ClKernel(queue.queue, "", "twice", [Launch(kernel, (4,), None)], [buffer]).start().wait()
    queue.download(view).wait()
    np.testing.assert_array_equal(buffer.host.view(np.float32), 6)


def buffer_view(buffer) -> TensorView:
    return TensorView.contiguous(buffer, np.dtype(np.uint8), Region([(0, buffer.nbytes)]))


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are kept on disk whatever the driver does by itself."""
    monkeypatch.setattr(program, "_has", lambda device, quirk: False)


def test_a_driver_with_a_cache_of_its_own_is_not_asked_for_binaries(device: OpenCLDevice, tmp_path: Path) -> None:
    with settings.override(cache_dir=tmp_path):
        _runs(device, _build_afresh(device))
    assert (tmp_path / "opencl").exists() != ("Portable Computing Language" in device.device.platform.name)


@pytest.mark.usefixtures("own_cache")
def test_programs_are_kept_on_disk_and_used(device: OpenCLDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with settings.override(cache_dir=tmp_path):
        _build_afresh(device)
        (kept,) = (tmp_path / "opencl").iterdir()
        assert kept.suffix == ".bin" and kept.read_bytes().startswith(program.MAGIC)
        monkeypatch.setattr(program, "_compile", lambda *a: pytest.fail("compiled although it was cached"))
        _runs(device, _build_afresh(device))


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other format", "another file's", "not the driver's"])
def test_a_damaged_cache_entry_is_built_again_and_overwritten(device: OpenCLDevice, tmp_path: Path, damage: str) -> None:
    if damage == "not the driver's" and "rusticl" in device.facts.driver:
        pytest.skip("a check of binaries is missing in rusticl: it ends the process where one is not its own, instead of refusing it")
    with settings.override(cache_dir=tmp_path):
        _build_afresh(device)
        (kept,) = (tmp_path / "opencl").iterdir()
        good = kept.read_bytes()
        junk = b"these bytes are no program"
        kept.write_bytes({
            "empty": b"", "cut": good[:len(good) // 2], "flipped": good[:-9] + bytes([good[-9] ^ 255]) + good[-8:],
            "another file's": program.MAGIC + seals.sealed("other.bin", good[len(program.MAGIC) + seals.SIZE:]),
            "other format": b"COEXECCL\x00" + good[len(program.MAGIC):],
            "not the driver's": program.MAGIC + seals.sealed(kept.name, junk)}[damage])
        _runs(device, _build_afresh(device))
        assert program._read(kept) is not None and len(kept.read_bytes()) > len(junk) + 64
        assert [p.name for p in kept.parent.iterdir()] == [kept.name], "temporary files were left behind"


@pytest.mark.usefixtures("own_cache")
def test_a_cache_that_cannot_be_written_is_one_warning(device: OpenCLDevice, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with settings.override(cache_dir=blocked / "cache"), caplog.at_level(logging.WARNING):
        _runs(device, _build_afresh(device))
        _runs(device, _build_afresh(device, SOURCE.replace("2;", "2.0f;")))
    assert len([r for r in caplog.records if "cannot be kept" in r.getMessage()]) == 1


@pytest.mark.usefixtures("own_cache")
def test_an_interrupted_write_leaves_nothing_behind(device: OpenCLDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupted)
    with settings.override(cache_dir=tmp_path), pytest.raises(KeyboardInterrupt):
        _build_afresh(device)
    assert not list((tmp_path / "opencl").iterdir())


@pytest.mark.usefixtures("own_cache")
def test_a_read_only_cache_is_survived(device: OpenCLDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **more: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files.os, "open", refused)
    with settings.override(cache_dir=tmp_path):
        _runs(device, _build_afresh(device))
    assert not list((tmp_path / "opencl").iterdir())


def test_the_key_depends_on_source_options_and_driver(device: OpenCLDevice) -> None:
    paths = {program.cache_path(device.device, text, options) for text in ("a", "b") for options in ((), ("-DX",))}
    assert len(paths) == 4


def test_a_build_error_carries_the_log(device: OpenCLDevice, capfd: pytest.CaptureFixture) -> None:
    with settings.override(debug=4), pytest.raises(KernelBuildError) as caught:
        program.build(device.context, "kernel void broken(global float *x) { x[0] = not_declared; }")
    assert "not_declared" in caught.value.log and device.facts.name in str(caught.value)
    assert "not_declared" in capfd.readouterr().err, "COEXEC_DEBUG=4 prints the source"


def test_a_kernel_that_is_not_there(device: OpenCLDevice) -> None:
    with pytest.raises(DeviceError, match="thrice"):
        program.kernel(program.build(device.context, SOURCE), "thrice")


@pytest.mark.parametrize("value,text", [
    (0.5, "0.5f"), (-2.0, "(-2.0f)"), (np.float32(0.1), "0.10000000149011612f"), (np.float64(0.1), "0.1"), (float("inf"), "INFINITY"),
    (float("-inf"), "(-INFINITY)"), (float("nan"), "NAN"), (3, "3"), (True, "1"), ("float", "float")])
def test_literals(value: object, text: str) -> None:
    assert program.literal(value) == text


# Memory


@pytest.mark.parametrize("nbytes", [0, 1, 100, 4096])
def test_buffers(device: OpenCLDevice, nbytes: int) -> None:
    buffer = device.allocate(nbytes)
    assert buffer.host.nbytes == buffer.nbytes == nbytes and buffer.host.dtype == np.uint8
    assert nbytes == 0 or buffer.host.ctypes.data % 64 == 0
    assert not buffer.host.any()
    assert buffer.shared == (device.sharing == "svm")


def test_a_view_keeps_shared_memory_alive(device: OpenCLDevice) -> None:
    buffer = device.allocate(64)
    host = buffer.host
    host[:] = 7
    buffer.close()
    del buffer
    assert (host == 7).all()


def test_too_much_memory_is_a_device_error(device: OpenCLDevice) -> None:
    for nbytes in (1 << 60, device.facts.extra["max_alloc_bytes"] + 1):
        with pytest.raises(DeviceError, match="MiB refused"):
            device.allocate(nbytes)
    with pytest.raises(DeviceError, match="MiB refused"):
        memory.allocate(device.context, lambda n: cl.Buffer(device.context, cl.mem_flags.READ_WRITE, n), 1 << 60)


VIEWS = {
    "contiguous": ((3, 4, 5), (20, 5, 1)), "gaps between rows": ((3, 4, 5), (28, 7, 1)), "gaps between planes": ((3, 4, 5), (24, 5, 1)),
    "ragged planes": ((3, 2, 5), (17, 7, 1)), "four dimensions": ((2, 3, 2, 3), (50, 13, 5, 1)), "every other": ((4, 6), (13, 2)),
    "transposed": ((5, 4), (1, 5)), "scalar": ((), ()), "empty": ((0, 4), (4, 1)), "one column": ((5, 1), (7, 1)),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_transfers_move_a_region_and_nothing_else(device: OpenCLDevice, name: str, dtype: str) -> None:
    shape, strides = VIEWS[name]
    dtype = np.dtype(dtype)
    buffer, queue = device.allocate(200 * dtype.itemsize), device.queue()
    view = TensorView(buffer, dtype, Region.whole(shape), 3 * dtype.itemsize, strides)
    array = np.arange(1, view.region.size + 1).reshape(shape).astype(dtype)
    view.array[...] = array
    queue.upload(view).wait()
    if buffer.shared:
        np.testing.assert_array_equal(view.array, array)
        return
    expected = buffer.host.copy()
    buffer.host[:] = 0
    queue.download(everything(buffer_view(buffer))).wait()
    np.testing.assert_array_equal(buffer.host, expected)  # the device had the region, and zeros elsewhere
    buffer.host[:] = 0xEE
    queue.download(view).wait()
    np.testing.assert_array_equal(view.array, array)
    view.array[...] = np.full((), 0xEE, np.uint8) if dtype == np.uint8 else np.frombuffer(b"\xee" * 4, dtype)[0]
    assert (buffer.host == 0xEE).all()


def test_regular_views_are_one_transfer() -> None:
    buffer = HostBuffer(4000)
    for name, count in (("contiguous", 1), ("gaps between rows", 1), ("ragged planes", 3), ("empty", 0), ("scalar", 1)):
        shape, strides = VIEWS[name]
        assert len(list(memory.rects(TensorView(buffer, np.dtype(np.float32), Region.whole(shape), 0, strides)))) == count, name


def test_boxes_that_a_driver_refuses_are_parted(monkeypatch) -> None:
    """NVIDIA's (580.159.04): it asks for whole rows of a pitch, and slices, where the last may legally be shorter."""
    allowed, refusals = cl.enqueue_copy, []

    def refusing(queue, *ends, **more):
        if "region" in more:
            (_, y, z), (_, rows, slices), (pitch, step) = more["buffer_origin"], more["region"], more["buffer_pitches"]
            if (z + slices) * step > 200 or z * step + (y + rows) * pitch > 200:
                refusals.append(rows)
                raise cl.LogicError("clEnqueueWriteBufferRect failed: INVALID_VALUE")
        return allowed(queue, *ends, **more)

    monkeypatch.setattr(cl, "enqueue_copy", refusing)
    device = OpenCLDevice(open_device("").device, "copy")
    for shape, strides in (((4, 5), (7, 1)), ((2, 3, 5), (35, 7, 1)), ((3, 4, 6), (35, 7, 1)), ((3, 4, 2), (12, 3, 1))):
        last = 200 - sum((e - 1) * s for e, s in zip(shape, strides)) - 1
        for offset in range(last - 8, last + 1):
            buffer, queue = device.allocate(200), device.queue()
            view = TensorView(buffer, np.dtype(np.uint8), Region.whole(shape), offset, strides)
            view.array[...] = np.arange(1, view.region.size + 1).reshape(shape)
            expected = buffer.host.copy()
            queue.upload(view).wait()
            buffer.host[:] = 0
            queue.download(everything(buffer_view(buffer))).wait()
            np.testing.assert_array_equal(buffer.host, expected)
            buffer.host[:] = 0
            queue.download(view).wait()
            np.testing.assert_array_equal(buffer.host, expected)
            queue.close()
    assert len(refusals) > 20


def test_a_transfer_that_is_refused_for_another_reason_is_an_error(monkeypatch) -> None:
    def refusing(*_, **__):
        raise cl.LogicError("clEnqueueWriteBufferRect failed: INVALID_VALUE")

    device = OpenCLDevice(open_device("").device, "copy")
    for shape, strides in (((4, 5), (7, 1)), ((20,), (1,))):
        queue, view = device.queue(), TensorView(device.allocate(200), np.dtype(np.uint8), Region.whole(shape), 0, strides)
        with monkeypatch.context() as patch, pytest.raises(DeviceError, match="INVALID_VALUE"):
            patch.setattr(cl, "enqueue_copy", refusing)
            queue.upload(view)


# Queues and kernels


def test_memory_of_another_kind_is_refused(device: OpenCLDevice) -> None:
    node, _ = make_node("Relu", [np.zeros((2, 3), np.float32)])
    region = Region.whole((2, 3))
    foreign = TensorView.contiguous(HostBuffer(24), np.dtype(np.float32), region)
    with pytest.raises(DeviceError, match="does not lie in this device's memory"):
        device.queue().compile(node, region, [foreign], [foreign])


def test_a_view_that_is_too_small_is_refused(device: OpenCLDevice) -> None:
    node, _ = make_node("Relu", [np.zeros((2, 3), np.float32)])
    view = TensorView.contiguous(device.allocate(24), np.dtype(np.float32), Region([(0, 1), (0, 3)]))
    with pytest.raises(DeviceError, match="does not cover"):
        device.queue().compile(node, Region.whole((2, 3)), [view], [view])


def test_what_is_declined_is_not_compiled(device: OpenCLDevice) -> None:
    node, _ = make_node("Relu", [np.zeros(3, np.float32)])
    strange = replace(node, op_type="Bernoulli")
    assert "no OpenCL kernel for Bernoulli" in device.declines(strange)
    with pytest.raises(DeviceError, match="Bernoulli"):
        device.queue().compile(strange, Region.whole((3,)), [None], [None])


def test_an_empty_piece_has_nothing_to_start(device: OpenCLDevice) -> None:
    node, arrays = make_node("Relu", [np.ones((2, 3), np.float32)])
    assert run_on_device(device, node, arrays, Region([(1, 1), (0, 3)]))[0].shape == (0, 3)


def test_constants_are_uploaded_once_a_queue(device: OpenCLDevice) -> None:
    weight = Const(np.ones((3,), np.float32))
    node, _ = make_node("Add", [np.zeros((2, 3), np.float32), weight])
    view = TensorView.contiguous(device.allocate(24), np.dtype(np.float32), Region.whole((2, 3)))
    queue, other = device.queue(), device.queue()
    for _ in range(3):
        queue.compile(node, view.region, [view, node.inputs[1]], [view])
    assert len(queue._constants) == 1 and not other._constants


def test_packed_weights_are_packed_once_a_part(device: OpenCLDevice) -> None:
    node, _ = make_node("Add", [np.zeros((2, 3), np.float32), Const(np.ones((2, 3), np.float32))])
    view = TensorView.contiguous(device.allocate(24), np.dtype(np.float32), Region.whole((2, 3)))
    queue, calls = device.queue(), []

    def pack(array: np.ndarray) -> np.ndarray:
        calls.append(array.shape)
        return array.T.astype(np.float64)

    for region in (view.region, view.region, Region([(0, 1), (0, 3)])):
        packed = Compile(queue, node, region, [view, node.inputs[1]], [view], "").packed(1, "turned", pack)
        assert packed.shape == region.shape[::-1] and packed.dtype == np.float64
    assert calls == [(2, 3), (1, 3)]


@pytest.fixture
def spilling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Neg that goes through scratch memory twice."""

    def build(c: Compile) -> None:
        from coexec.devices.opencl.nd import elementwise

        first, second = c.scratch(c.output().shape), c.scratch(c.output().shape)
        elementwise(c, "a0 + (T)(1)", first, [c.input(0)])
        elementwise(c, "a0 + a1", second, [first, first])
        elementwise(c, "a0 - a1", c.output(), [first, second])

    builder.find(make_node("Neg", [np.zeros(1, np.float32)])[0])
    monkeypatch.setitem(builder._families, ("", "Neg"), builder.Family(build, False))


def test_scratch_memory_is_bound_when_sealed_and_shared(device: OpenCLDevice, spilling: None) -> None:
    queue, kernels, outputs = device.queue(), [], []
    for n in (5, 40):
        node, _ = make_node("Neg", [np.zeros(n, np.float32)])
        x, y = (TensorView.contiguous(device.allocate(4 * n), np.dtype(np.float32), Region.whole((n,))) for _ in range(2))
        x.array[...] = np.arange(n)
        queue.upload(x)
        kernels.append(queue.compile(node, x.region, [x], [y]))
        outputs.append(y)
    assert queue.scratch.handle is None and queue.scratch.nbytes == 2 * 192
    queue.seal()
    for kernel in kernels:
        event = kernel.start()
    queue.flush()
    event.wait()
    for y in outputs:
        queue.download(y).wait()
        np.testing.assert_array_equal(y.array, -1 - np.arange(len(y.array)))
    queue.close()


def test_arguments_must_fit_the_kernel(device: OpenCLDevice) -> None:
    node, _ = make_node("Relu", [np.zeros(4, np.float32)])
    view = TensorView.contiguous(device.allocate(16), np.dtype(np.float32), Region.whole((4,)))
    c = Compile(device.queue(), node, view.region, [view], [view], "here")
    files, defines = ["nd.clh", "place.clh", "relayout.cl"], {"T": "float", "RANK": 1}
    with pytest.raises(DeviceError, match="got 1 arguments"):
        c.launch(files, "relayout", defines, (4,), None, np.int32(1))
    with pytest.raises(DeviceError, match="no size"):
        c.launch(files, "relayout", defines, (4,), None, 1)
    far = ClOperand(view.buffer.handle, np.dtype(np.float32), (4,), (1,), 2**31)
    with pytest.raises(DeviceError, match="too far inside"):
        c.launch(files, "relayout", defines, (4,), None, far)


STRUCT = """struct __attribute__((packed)) numbers { int a; int8 b; int c; float2 d; int e; };
kernel void read(global int *out, struct numbers n) {
  out[0] = n.a; vstore8(n.b, 0, out + 1); out[9] = n.c; out[10] = as_int(n.d.s0); out[11] = as_int(n.d.s1); out[12] = n.e;
}"""


def test_numbers_in_one_struct_arrive_where_the_kernel_looks_for_them(device: OpenCLDevice) -> None:
    numbers = [np.int32(1), np.arange(2, 10, dtype=np.int32), np.int32(10), np.array([11.5, 12.5], np.float32), np.int32(13)]
    given = builder.packed(numbers)
    queue, found = cl.CommandQueue(device.context), np.zeros(13, np.int32)
    out = cl.Buffer(device.context, cl.mem_flags.WRITE_ONLY, found.nbytes)
    cl.Program(device.context, STRUCT).build().read(queue, (1,), None, out, given)
    cl.enqueue_copy(queue, found, out)
    np.testing.assert_array_equal(found, np.concatenate([np.atleast_1d(n).view(np.int32) for n in numbers]))


def test_a_failing_start_names_device_and_node(device: OpenCLDevice) -> None:
    kernel = program.kernel(program.build(device.context, SOURCE), "twice")  # its argument was never set
    with pytest.raises(DeviceError, match=r"\[the device, Relu 'r'\].*f32_relu"):
        ClKernel(device.queue().queue, "the device, Relu 'r'", "f32_relu", [Launch(kernel, (4,), None)], []).start()


def test_every_family_file_registers_something() -> None:
    known = {op for _, op in builder.built_ops()}
    assert {"Relu", "Add", "Concat", "Split", "Slice", "Pad", "Transpose", "Gather", "Expand", "Tile", "Resize", "DepthToSpace", "Softmax",
            "ReduceSum", "ArgMax", "Reshape", "Cast", "Where", "CumSum"} <= known

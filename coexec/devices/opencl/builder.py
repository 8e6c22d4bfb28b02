"""What a family file uses to turn a node's piece into kernel launches.

A family is a module of this folder; being there is enough. It registers one function per operator type, and kernels in `kernels/`.
A worked example, `scale.py`, for an operator "Scale" that multiplies its input by a constant attribute:

    @builds("Scale", tail=True)                        # tail: the kernel does node.residual and node.activation itself
    def build(c: Compile) -> None:
        x, y = c.input(0), c.output(0)                 # windows: only what this piece reads and writes
        r = c.residual                                 # None without a fused residual; a window of the output's shape
        defines = {"T": ctype(y.dtype), "RANK": len(y.shape), **c.tail_defines()}
        c.implementation = f"{short(y.dtype)}_scale_direct"
        args = [x, int8(x.strides), y, int8(y.strides), int8(y.shape), np.float32(c.node.attr("factor", 1.0))]
        c.launch(["scale.cl"], "scale", defines, (y.size,), None, *args, *([r, int8(r.strides)] if r else []))

    @declines("Scale")                                 # optional: why not this node on such a device, or None
    def refuse(node: Node, facts: DeviceFacts) -> str | None:
        return "an axis is not last" if node.attr("axis", -1) != -1 else None

and `kernels/scale.cl` (the defines and `common.clh` come before it; a window is a pointer and an offset in elements):

    kernel void scale(global const T* restrict x, int x_off, int8 x_strides, global T* restrict y, int y_off, ..., float factor
    #ifdef RESIDUAL
        , global const T* restrict r, int r_off, int8 r_strides
    #endif
    ) { x += x_off; y += y_off; ... y[i] = ACTIVATE(T, v); }

Rules. Kernels are OpenCL C 1.2: no generic pointers, no subgroups, no recursion. A window's strides are in elements and may be any
(other pieces' elements lie between); write nothing outside the output windows; read nothing outside the input windows.
A build runs once per piece, so packing weights and choosing tiles here is fine; keep the number of distinct defines small, since
each set is a program of its own to compile: shapes and strides are better passed as arguments than defined. Give the local size
where you can: a driver that chooses it (None) may compile the kernel anew for every size it comes to choose.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyopencl as cl

from ...errors import DeviceError
from ...graph.ir import Activation, Node, Value
from ...ops import op_for
from ...ops.narrow import NARROW
from ...regions import Region
from ..base import DeviceFacts, Operand, TensorView
from . import host, program
from .error_function import erf
from .launch import Launch

if TYPE_CHECKING:
    from ..cpu.packing import Packing
    from .device import OpenCLQueue
    from .tiles import Tiles

#: Element types and how they lie in memory; half and the narrow types are types of memory alone (storage.py).
CTYPES = {
    **dict.fromkeys(NARROW, "uchar"), "bfloat16": "ushort", "float16": "half", "float32": "float", "float64": "double",
    "int8": "char", "uint8": "uchar", "int16": "short", "uint16": "ushort", "int32": "int", "uint32": "uint", "int64": "long",
    "uint64": "ulong", "bool": "uchar",
}
_SHORT = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "float64": "f64", "bool": "b8"}
_INT_MAX = 2**31 - 1
#: Operators whose answer is the number that they were given, to its last bit.
EXACT = frozenset({"Cast", "CastLike"})


def ctype(dtype: np.dtype) -> str:
    """The OpenCL C type of an element type in memory; bool is uchar holding 0 or 1, narrow types are the bits they take."""
    return CTYPES[np.dtype(dtype).name]


def short(dtype: np.dtype) -> str:
    """The element type in an implementation's name: f32, i64, u8, ..."""
    name = np.dtype(dtype).name
    return _SHORT.get(name) or name.replace("uint", "u").replace("int", "i").replace("float", "f")


def int8(values: Sequence[int], fill: int = 0) -> np.ndarray:
    """Up to eight ints as one kernel argument of type int8 (strides, shapes), `fill` behind them."""
    packed = np.full(8, fill, np.int32)
    packed[:len(values)] = values
    return packed


class Unbound:
    """Memory that kernels of a queue use in turn: as an argument, it is set when the queue is sealed, for all (kernel, argument) `users`."""

    users: list[tuple[cl.Kernel, int]]


@dataclass(frozen=True)
class ClOperand:
    """A window of device memory: as a kernel argument it expands to a pointer and an int, the offset in elements."""

    handle: Any  # cl.Buffer or SVMAllocation, or what makes it; None for scratch memory, which is bound when the queue is sealed
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    owner: Any = None

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_contiguous(self) -> bool:
        """True where the elements lie side by side in C order."""
        step = 1
        for extent, stride in zip(reversed(self.shape), reversed(self.strides)):
            if extent > 1 and stride != step:
                return False
            step *= extent
        return True

    def sub(self, starts: Sequence[int], shape: Sequence[int]) -> ClOperand:
        """The part that begins at `starts` (indices of this window) and has that shape."""
        shift = sum(a * s for a, s in zip(starts, self.strides))
        return replace(self, shape=tuple(shape), offset=self.offset + shift)

    def reshape(self, shape: Sequence[int]) -> ClOperand:
        """The same elements under another shape; only for a contiguous window."""
        if not self.is_contiguous:
            raise ValueError("only a contiguous window can be reshaped")
        return replace(self, shape=tuple(shape), strides=row_major(shape))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """C-order strides in elements."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


@dataclass(frozen=True)
class Family:
    """What one operator type is built by."""

    build: Callable[[Compile], None]
    tail: bool
    narrow: bool = False
    declines: Callable[[Node, DeviceFacts], str | None] | None = None


_families: dict[tuple[str, str], Family] = {}
_refusals: dict[tuple[str, str], Callable[[Node, DeviceFacts], str | None]] = {}


def builds(*op_types: str, domain: str = "", tail: bool = False, narrow: bool = False) -> Callable:
    """Decorator: this function builds those operators. `tail` says that it also does the fused residual and activation, `narrow` that
    it takes elements of the types of ops/narrow.py."""

    def register(function: Callable[[Compile], None]) -> Callable[[Compile], None]:
        for op_type in op_types:
            if (domain, op_type) in _families:
                raise ValueError(f"OpenCL kernels of {op_type} are registered twice")
            _families[domain, op_type] = Family(function, tail, narrow)
        return function

    return register


def declines(*op_types: str, domain: str = "") -> Callable:
    """Decorator: this function says why such a node cannot be built for a device of these facts, or None."""

    def register(function: Callable[[Node, DeviceFacts], str | None]) -> Callable[[Node, DeviceFacts], str | None]:
        for op_type in op_types:
            if (domain, op_type) in _refusals:
                raise ValueError(f"a refusal of {op_type} is registered twice")
            _refusals[domain, op_type] = function
        return function

    return register


@lru_cache(maxsize=1)
def _discover() -> None:
    for module in pkgutil.iter_modules(importlib.import_module(__package__).__path__):
        importlib.import_module(f"{__package__}.{module.name}")


def built_ops() -> frozenset[tuple[str, str]]:
    """Every (domain, op_type) that some family builds."""
    _discover()
    return frozenset(_families)


def find(node: Node) -> Family | None:
    """The family that builds this operator type, or None."""
    _discover()
    key = node.domain, node.op_type
    family = _families.get(key)
    return family and replace(family, declines=_refusals.get(key))


class Compile:
    """One compile call: a node, the piece of it, windows of its operands, and what is enqueued for it.

    `region` is the piece of output 0, `out_regions` of every output, `in_regions` what of every input it reads (a residual last).
    A family sets `implementation` to `<dtype>_<op>_<method>_<tile>`.
    """

    def __init__(self, queue: OpenCLQueue, node: Node, region: Region, inputs: Sequence[Operand], outputs: Sequence[TensorView | None],
                 where: str):
        self.queue, self.node, self.region, self.where = queue, node, region, where
        self.op = op_for(node)
        self.facts: DeviceFacts = queue.device.facts
        self.in_regions = self.op.regions_read(node, region)
        self.out_regions = self.op.output_regions(node, region)
        self.implementation = f"{short(node.output.dtype)}_{node.op_type.lower()}"
        self.launches: list[Launch] = []
        self.owned: list[Any] = []
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._scratch_used = 0

    @property
    def tiles(self) -> Tiles:
        """The numbers its kernels are built with: tuned for this piece, or the device's defaults."""
        from . import tuning  # it compiles kernels itself, to measure them

        return tuning.tiles_of(self.facts, self.node, self.region)

    # Operands

    def has(self, index: int) -> bool:
        """True where the node has that input."""
        return index < len(self.node.operands) and self.node.operands[index] is not None

    def is_constant(self, index: int) -> bool:
        """True where that input is a constant of the model."""
        return self.has(index) and self.node.operands[index].is_constant

    def value(self, index: int) -> np.ndarray | None:
        """The whole array of a constant input, on the host; None where it is absent or computed at run time."""
        return self.node.operands[index].data if self.has(index) else None

    def input(self, index: int) -> ClOperand | None:
        """The window of that input which this piece reads (`in_regions[index]`); None where it is absent. -1 is the last."""
        index = index if index >= 0 else len(self.node.inputs) + index
        if index >= len(self.node.inputs) or self.node.inputs[index] is None:
            return None
        given, region = self._inputs[index], self.in_regions[index]
        value = self.node.inputs[index]
        if isinstance(given, Value) or (given is None and value.is_constant):
            data = value.data
            handle = partial(self.queue.constant, (id(data), "whole"), data, lambda: data)  # only where a kernel takes it as it is
            strides = row_major(data.shape)
            return ClOperand(handle, data.dtype, region.shape, strides, _offset(region, Region.whole(data.shape), strides), data)
        return self._window(given, region, f"input {index}")

    def output(self, index: int = 0) -> ClOperand | None:
        """The window of that output which this piece writes (`out_regions[index]`); None where nobody wants it."""
        if index >= len(self._outputs) or self._outputs[index] is None:
            return None
        return self._window(self._outputs[index], self.out_regions[index], f"output {index}")

    def in_view(self, index: int) -> TensorView:
        """Where that input lies, which is computed at run time."""
        return self._inputs[index]  # type: ignore[return-value]

    def out_view(self) -> TensorView:
        """Where the first output is to lie."""
        return self._outputs[0]  # type: ignore[return-value]

    @property
    def residual(self) -> ClOperand | None:
        """The window of the fused residual, of the output's shape, or None."""
        return self.input(-1) if self.node.residual else None

    def _window(self, view: TensorView | None, region: Region | None, what: str) -> ClOperand:
        if view is None or region is None:
            raise DeviceError(f"{what} is needed but was not given", where=self.where)
        handle = getattr(view.buffer, "handle", None)
        if handle is None:
            raise DeviceError(f"{what} does not lie in this device's memory", where=self.where, found=type(view.buffer).__name__,
                              expected="a buffer of Device.allocate that is still open")
        if not view.region.covers(region):
            raise DeviceError(f"{what} does not cover what the piece needs", where=self.where, found=view.region, expected=region)
        offset, rest = divmod(view.offset_bytes, view.dtype.itemsize)
        if rest:
            raise DeviceError(f"{what} is not aligned to its element size", where=self.where, found=f"offset {view.offset_bytes} bytes")
        return ClOperand(handle, view.dtype, region.shape, view.strides, offset + _offset(region, view.region, view.strides), view.buffer)

    # Memory of the queue

    def constant(self, array: np.ndarray, key: Hashable) -> ClOperand:
        """That array on the device, uploaded once per queue and key: `key` must tell apart all arrays that differ."""
        array = np.ascontiguousarray(array)
        handle = self.queue.constant(("array", key, array.shape, array.dtype.str), None, lambda: array)
        return ClOperand(handle, array.dtype, array.shape, row_major(array.shape), 0)

    def packed(self, index: int, key: Hashable, pack: Callable[[np.ndarray], np.ndarray]) -> ClOperand:
        """pack(the part of constant input `index` that this piece reads), computed and uploaded once per queue, part and key."""
        data, region = self.node.operands[index].data, self.in_regions[index]
        kept: list[np.ndarray] = []

        def make() -> np.ndarray:
            kept.append(np.ascontiguousarray(pack(data[region.slices])))
            return kept[0]

        name = (id(data), key, tuple(region))
        handle = self.queue.constant(name, data, make)
        shape, dtype = self.queue.shapes.setdefault(name, (kept[0].shape, kept[0].dtype) if kept else None)
        return ClOperand(handle, dtype, shape, row_major(shape), 0, data)

    def shared(self, index: int, layout: Hashable, pack: Callable[[np.ndarray], Packing]) -> ClOperand:
        """As `packed`, flat, for a layout of float32 that the CPU's kernels have too: where memory is shared, both read one copy."""
        data, region = self.node.operands[index].data, self.in_regions[index]
        part = tuple(region)
        made = host.once(data, part, layout, lambda: pack(data[region.slices]))
        handle = self.queue.constant((id(data), layout, part), made if self.queue.uses(made.data) else data, lambda: made.data)
        return ClOperand(handle, made.data.dtype, made.data.shape, (1,), 0, data)

    def scratch(self, shape: Sequence[int], dtype: Any = np.float32) -> ClOperand:
        """Working memory of this launch list only (other kernels of the queue use the same bytes), 64-byte aligned, not zeroed."""
        dtype = np.dtype(dtype)
        start = self._scratch_used
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._scratch_used = start + -(-nbytes // 64) * 64
        self.queue.scratch.nbytes = max(self.queue.scratch.nbytes, self._scratch_used)
        return ClOperand(None, dtype, tuple(shape), row_major(shape), start // dtype.itemsize)

    # The fused tail

    def tail_defines(self) -> dict[str, Any]:
        """Defines that make ACTIVATE(T, x) of common.clh the node's activation (else the identity), and RESIDUAL where one is added."""
        defines = activation_defines(self.node.activation, self.node.output.dtype)
        return {**defines, "RESIDUAL": 1} if self.node.residual else defines

    # Launching

    def kernel(self, files: Sequence[str], name: str, defines: Mapping[str, Any], options: Sequence[str] = (),
               forms: program.Forms | None = None) -> cl.Kernel:
        """A kernel object of its own of that program. Raises KernelBuildError with the compiler's log."""
        built = program.build(self.queue.context, program.compose(files, defines, forms), options, exact=self.node.op_type in EXACT)
        return program.kernel(built, name if forms is None else name + forms.suffix(forms.mine))

    def launch(self, files: Sequence[str] | str, name: str, defines: Mapping[str, Any], global_size: Sequence[int],
               local_size: Sequence[int] | None, *args: Any, options: Sequence[str] = (), forms: program.Forms | None = None,
               in_step: bool = False, numbers_last: bool = False) -> None:
        """Adds one enqueue of kernel `name` from `files` of kernels/, compiled with the defines; `forms` are files with several forms of it.

        `global_size` is rounded up to a multiple of `local_size` (kernels guard); a size of 0 adds nothing. Arguments: a ClOperand
        (expands to pointer, int offset), NumPy scalars or int8(...), a cl.LocalMemory. None adds no argument. `in_step`: the kernel takes all
        numbers as one struct behind its pointers, in this order (NUMBERS of common.clh), and ends in IN_STEP_ARGS, which are set so that it waits
        for nobody and tells nobody. `numbers_last`: it is written for both (IN_ONE of common.clh), and does so where a work-item owns a core.
        Raises KernelBuildError, or DeviceError where the arguments do not fit the kernel.
        """
        if not all(global_size):
            return
        if numbers_last:
            in_step = self.facts.emulated and local_size is not None and not any(n > 1 for n in local_size)
            defines = {**defines, **({"IN_ONE": 1} if in_step else {})}
        kernel = self.kernel([files] if isinstance(files, str) else files, name, defines, options, forms)
        if local_size is not None:
            global_size = tuple(-(-g // n) * n for g, n in zip(global_size, local_size))
        given = [value for arg in args if arg is not None for value in self._expand(name, arg)]
        if in_step or numbers_last:
            numbers = [value for value in given if isinstance(value, (np.generic, np.ndarray))]
            given = [value for value in given if not isinstance(value, (np.generic, np.ndarray))]
            given += [packed(numbers), None, np.zeros(4, np.int32)] if in_step else numbers
        if len(given) != kernel.num_args:  # before any is set: drivers crash on arguments that do not fit
            raise DeviceError(f"kernel {name} got {len(given)} arguments", where=self.where, expected=kernel.num_args)
        for position, value in enumerate(given):
            if isinstance(value, Unbound):
                value.users.append((kernel, position))
                continue
            try:
                kernel.set_arg(position, value)
            except cl.Error as error:
                raise DeviceError(f"argument {position} of kernel {name} does not fit", where=self.where, found=error) from error
        self.launches.append(Launch(kernel, tuple(map(int, global_size)), None if local_size is None else tuple(map(int, local_size)), in_step))

    def _expand(self, name: str, arg: Any) -> tuple[Any, ...]:
        """What is set for one argument of `launch`."""
        if not isinstance(arg, ClOperand):
            if isinstance(arg, (bool, int, float)) and not isinstance(arg, np.generic):
                raise DeviceError(f"an argument of kernel {name} has no size", where=self.where, found=repr(arg),
                                  expected="np.int32(...) or the like")
            self.owned.append(arg)
            return (arg,)
        if not 0 <= arg.offset <= _INT_MAX:
            raise DeviceError(f"an argument of kernel {name} lies too far inside its buffer", where=self.where, found=arg.offset)
        handle = self.queue.scratch if arg.handle is None else arg.handle() if isinstance(arg.handle, partial) else arg.handle
        self.owned += [handle, arg.owner]
        return handle, np.int32(arg.offset)


def packed(numbers: Sequence[np.generic | np.ndarray]) -> np.ndarray:
    """Numbers and short vectors as the bytes of a packed struct of them in that order (PACKED_ of common.clh)."""
    return np.frombuffer(b"".join(value.tobytes() for value in numbers), np.uint8)


def _offset(region: Region, outer: Region, strides: Sequence[int]) -> int:
    return sum((r.start - o.start) * s for r, o, s in zip(region, outer, strides))


def activation_defines(activation: Activation | None, dtype: Any = np.float32) -> dict[str, Any]:
    """Defines that select a fused activation in common.clh, its constants as literals that suit `dtype`."""
    if activation is None:
        return {}
    alpha, beta = {"HardSwish": (1 / 6, 0.5), "Gelu": (2**-0.5, 0.0)}.get(activation.kind, (activation.alpha, activation.beta))
    if activation.kind == "Clip":  # min(max(x, lo), hi): hi wins where they cross
        alpha = min(alpha, beta)
    number = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    own = {"ERF(T, x)": erf("x")} if activation.kind == "Gelu" and np.dtype(dtype) == np.float32 else {}
    return {**own, f"ACT_{activation.kind.upper()}": 1, "ACT_ALPHA": number(alpha), "ACT_BETA": number(beta)}

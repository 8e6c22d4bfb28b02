"""How a piece of a node becomes a closure: the registry of fast paths, and the generic path that any operator can take.

A family's file registers builders; each looks at a Piece and returns a Program, or None where the case is not its own:

    @builds("Relu")
    def _relu(piece): return Program("f32_relu", lambda scratch: partial(np.maximum, piece.inputs[0], 0, out=piece.outputs[0]))
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ...graph.ir import Node, Value
from ...ops.base import Op, SplitAxis
from ...ops.fallback import is_fallback
from ...regions import Region, even_cuts
from .shared import Packed, fill, packed_once
from .threads import Task

if TYPE_CHECKING:
    from .packing import Packing


class Program(NamedTuple):
    """What a builder returns: `bind(scratch)` makes the closure that runs the piece, `scratch` being that many bytes (uint8).

    Every kernel of a thread gets the same scratch memory, 64-byte aligned; nothing in it survives from one run to the next.
    """

    implementation: str
    bind: Callable[[np.ndarray], Task]
    scratch_bytes: int = 0
    #: It may call NumPy's matrix products, whose library has threads of its own.
    uses_blas: bool = False


@dataclass(frozen=True, eq=False)
class Piece:
    """One thread's share of a node: arrays cut to exactly what is read and written, none of them copied.

    inputs[i] has the shape of regions[i] (`Op.regions_read`), outputs[i] that of `Op.output_regions`.
    """

    node: Node
    op: Op
    region: Region
    regions: tuple[Region | None, ...]
    inputs: tuple[np.ndarray | None, ...]
    outputs: tuple[np.ndarray | None, ...]
    options: Options
    packed: Packs = field(repr=False)

    @property
    def values(self) -> tuple[Value | None, ...]:
        """The node's inputs, a residual included."""
        return self.node.inputs

    @property
    def residual(self) -> np.ndarray | None:
        """The fused residual's piece, of the output's shape."""
        return self.inputs[-1] if self.node.residual else None

    def constant(self, index: int) -> np.ndarray | None:
        """The whole data of that operand, or None where it is absent or no constant."""
        value = self.node.operand(index)
        return None if value is None else value.data

    def absent(self, index: int) -> bool:
        return self.node.operand(index) is None

    def is_float32_operand(self, index: int) -> bool:
        """True where that input and the first output are float32, whatever the other inputs are (axes, shapes)."""
        return self.inputs[index].dtype == np.float32 and self.outputs[0].dtype == np.float32

    @property
    def is_float32(self) -> bool:
        """True where every input and output with elements is float32."""
        return all(a is None or a.dtype == np.float32 for a in (*self.inputs, *self.outputs))


@dataclass(frozen=True)
class Options:
    """What a queue may be told.

    `fast`: kernels of this package, not only NumPy. `winograd`: 3x3 convolutions by F(m x m, 3x3), where that is less work;
    `winograd_tile` forces m (2, 4 or 6), 0 chooses 2 or 4.
    """

    winograd: bool = True
    winograd_tile: int = 0
    fast: bool = True


class Packs:
    """Constants rearranged once for the kernels of a queue, by (value, cut, layout). Much of it is filled in later, by many threads."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[Any, Any]] = {}
        self._open: list[Task] = []
        self.held: list[Packed] = []

    def get(self, owner: object, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returned the first time this owner and key were asked for."""
        found = self._made.get((id(owner), key))
        if found is None:
            found = self._made[id(owner), key] = (owner, make())  # the owner is kept so that its id stays its own
        return found[1]

    def later(self, packing: Packing) -> np.ndarray:
        """The memory of a Packing, to be filled by `finish`."""
        self._open += packing[1]
        return packing[0]

    def shared(self, value: Value, region: Region, layout: Hashable, make: Callable[[], Packing]) -> np.ndarray:
        """As `later`, for that part of a constant in a layout that other queues read too: they get the same memory."""
        self.held.append(packed_once(value.data, tuple(region), layout, make))
        return self.held[-1].data

    def finish(self, threads: int) -> None:
        """Fills what `later` and `shared` were given since the last call."""
        tasks, self._open = self._open, []
        fill(self.held, tasks, threads)

    @property
    def nbytes(self) -> int:
        """Bytes held in packed arrays."""
        return sum(a.nbytes for _, made in self._made.values() for a in (made if isinstance(made, tuple) else (made,))
                   if isinstance(a, np.ndarray))


Builder = Callable[[Piece], "Program | None"]
B = TypeVar("B", bound=Builder)
_builders: dict[str, list[Builder]] = {}


def builds(*op_types: str) -> Callable[[B], B]:
    """Decorator: the function is asked for a Program for each piece of these ONNX operators, in the order of definition."""

    def add(builder: B) -> B:
        for op_type in op_types:
            _builders.setdefault(op_type, []).append(builder)
        return builder

    return add


Sharer = Callable[[Op, Node, Region, int], "list[Region] | None"]
_sharers: dict[str, Sharer] = {}


def shares_out(*op_types: str) -> Callable[[Sharer], Sharer]:
    """Decorator: the function cuts pieces of these operators for threads better than evenly along the best axis, or returns None."""

    def add(sharer: Sharer) -> Sharer:
        _sharers.update(dict.fromkeys(op_types, sharer))
        return sharer

    return add


def share_out(op: Op, node: Node, out_region: Region, threads: int) -> list[Region] | None:
    """What the operator's own family makes of a piece for threads, or None where it has no opinion."""
    if node.domain or is_fallback(op):
        return None
    _discover()
    sharer = _sharers.get(node.op_type)
    return None if sharer is None else sharer(op, node, out_region, threads)


#: Shares of an axis are taken where the largest is at most this much above the mean.
FAIR_SHARE = 1.15


def along_channels(op: Op, node: Node, out_region: Region, threads: int, aligns: Sequence[int] = (1,)) -> list[Region] | None:
    """Near-equal shares of the channels, at the first alignment that is fair; None where there are too few channels for any.

    For operators that compute each channel by itself. Convolutions are mostly cut along channels, so a thread then reads what it has written and
    has in its cache, no row twice, and one stretch of memory.
    """
    channels = next((a for a in op.split_axes(node) if a.name == "channel"), None)
    for align in aligns if channels is not None else ():
        pieces = cut_evenly(channels, out_region, threads, align)
        if max(p.size for p in pieces) * threads <= FAIR_SHARE * out_region.size:
            return pieces
    return None


def cut_evenly(axis: SplitAxis, out_region: Region, parts: int, align: int = 1) -> list[Region]:
    """At most `parts` near-equal pieces of a legal piece along an axis, cut at multiples of `align` legal units; none is empty."""
    start, stop = out_region[axis.dim]
    bounds = even_cuts(stop - start, parts, axis.multiple * align)  # a legal piece starts at a legal multiple, so these are legal too
    pieces = [out_region.replace(axis.dim, (start + a, start + b)) for a, b in zip(bounds, bounds[1:])]
    return [p for p in pieces if p.size] or [out_region]


@lru_cache(maxsize=1)
def _discover() -> None:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def build(piece: Piece) -> Program:
    """The program for a piece: the first fast path that takes it, else the generic one."""
    if not piece.region.size or all(a is None or not a.size for a in piece.outputs):
        return Program("empty", lambda scratch: _nothing)
    if piece.options.fast and piece.node.domain in ("", "coexec") and not is_fallback(piece.op):
        _discover()
        for builder in _builders.get(piece.node.op_type, ()):
            program = builder(piece)
            if program is not None:
                return program
    return generic(piece)


def ready(task: Task) -> Task:
    """The task with its code compiled, so that the first run is as quick as any other."""
    if isinstance(task, partial):
        from .jit import prepare

        prepare(task)
    return task


def _nothing() -> None:
    return None


def generic(piece: Piece) -> Program:
    """The operator's own NumPy meaning, copied into the output views."""
    op, node, region, inputs = piece.op, piece.node, piece.region, list(piece.inputs)
    outputs = piece.outputs

    def run() -> None:
        with np.errstate(all="ignore"):
            results = op.run(node, inputs, region)
        for into, result in zip(outputs, results):
            if into is not None and result is not None:
                np.copyto(into, result)

    dtype = next((a.dtype.name for a in outputs if a is not None), "none")
    return Program(f"{dtype}_{node.op_type.lower()}_numpy", lambda scratch: run, uses_blas=True)

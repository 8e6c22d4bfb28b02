"""Statistics of lines on OpenCL: how the kernels of normalize.cl are told what a line is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .builder import ClOperand, Compile, ctype, int8, short
from .lines import arithmetic, group
from .nd import broadcast, collapse
from .tail import i32, number, type_defines

VECTOR = 16
#: Elements that a work-item that owns a core goes through: enough to hide what starting one costs.
ITEM = 4096


def _pick(values: Sequence[int], dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(values[d] for d in dims)


class Lines:
    """A box of elements seen as lines along `axes`. Every operand given is walked along with it (strides of 0 where it is broadcast)."""

    def __init__(self, c: Compile, axes: Sequence[int], x: ClOperand, *others: ClOperand | None):
        self.c, self.x = c, x
        rank = len(x.shape)
        self.axes = sorted(a % rank for a in axes)
        self.rest = [d for d in range(rank) if d not in self.axes]
        self.operands = [x, *(None if o is None else broadcast(o, x.shape) for o in others)]
        steps = [o.strides for o in self.operands if o is not None]
        self.reduced, reduced = collapse(_pick(x.shape, self.axes), *(_pick(s, self.axes) for s in steps))
        self.kept, kept = collapse(_pick(x.shape, self.rest), *(_pick(s, self.rest) for s in steps))
        pairs = iter(zip(kept, reduced))
        self.strides = [None if o is None else next(pairs) for o in self.operands]
        self.count = int(np.prod(self.kept, dtype=np.int64))
        self.group = group(c, self.reduced[0])
        # Where a work-item owns a core it makes several short lines, but each core has some of the work.
        short = ITEM // max(1, int(np.prod(self.reduced, dtype=np.int64)))
        self.many = max(1, min(short, self.count // (4 * c.tiles.cores))) if c.facts.emulated else 1

    def defines(self, vectors: bool) -> dict[str, Any]:
        steps = [s[1][0] for s in self.strides if s is not None]
        dtype = self.x.dtype
        wide = (vectors and self.group == 1 and self.c.facts.emulated and steps[0] == 1 and all(s in (0, 1) for s in steps)
                and dtype != np.float16 and self.reduced[0] >= VECTOR)
        return {**type_defines(self.c), "T": ctype(dtype), "V": VECTOR if wide else 1, "GROUP": self.group,
                "RANK": max(len(self.kept), len(self.reduced), 1)}

    def walk(self, index: int) -> list[Any]:
        """An operand as arguments: pointer, offset, strides of the kept and of the reduced axes."""
        if self.operands[index] is None:
            return []
        kept, reduced = self.strides[index]
        return [self.operands[index], int8(kept), int8(reduced)]

    def shape_args(self) -> list[Any]:
        """kept, reduced, n0, outer, lines, many."""
        return [int8(self.kept, 1), int8(self.reduced, 1), *i32(self.reduced[0], int(np.prod(self.reduced[1:], dtype=np.int64)),
                                                                self.count, self.many)]

    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        return (-(-self.count // self.many) * self.group,), (self.group,)


class Running(NamedTuple):
    """Statistics that training keeps: new = momentum * old + (1 - momentum) * the line's; an output nobody wants is None."""

    momentum: float
    old_mean: ClOperand
    old_var: ClOperand
    mean: ClOperand | None
    var: ClOperand | None


def normalize(c: Compile, mode: str, axes: Sequence[int], x: ClOperand, y: ClOperand, epsilon: float = 0.0, scale: ClOperand | None = None,
              bias: ClOperand | None = None, r: ClOperand | None = None, statistics: Sequence[ClOperand | None] = (),
              running: Running | None = None) -> None:
    """Enqueues `mode` of normalize.cl over `axes`; operands are broadcast to x. `statistics`: the mean and 1 / deviation of every line."""
    means = [*statistics, None, None][:2]
    walked = Lines(c, axes, x, y, scale, bias, r, *means, *(running[1:] if running else ()))
    defines = {**walked.defines(True), mode: 1}
    for name, operand in (("SCALE", scale), ("BIAS", bias), ("RESIDUAL", r), ("MEAN", means[0]), ("INVERSE", means[1])):
        if operand is not None:
            defines[name] = 1
            if name in ("MEAN", "INVERSE"):
                defines["TS"] = ctype(operand.dtype)
    extra: list[Any] = []
    for k in range(5, len(walked.operands)):
        if k == 7:
            extra.append(number(running.momentum, arithmetic(x.dtype)))
        if walked.operands[k] is not None:
            extra += [walked.operands[k], int8(walked.strides[k][0])]
    if running:
        defines |= {"RUNNING": 1, **{name: 1 for name, o in (("RUNNING_MEAN", running.mean), ("RUNNING_VAR", running.var)) if o is not None}}
    c.implementation = f"{short(y.dtype)}_{c.node.op_type.lower()}_lines"
    c.launch(["place.clh", "group.clh", "normalize.cl"], "normalize_lines", defines, *walked.sizes(), *walked.walk(0), *walked.walk(1),
             *walked.shape_args(), number(epsilon, arithmetic(x.dtype)), *walked.walk(2), *walked.walk(3), *walked.walk(4), *extra, numbers_last=True)


def line_pool(c: Compile, mode: str, axes: Sequence[int], x: ClOperand, y: ClOperand, r: ClOperand | None, power: int = 2) -> None:
    """Enqueues `mode` of line_pool: one number a line; y has extent 1 along the axes."""
    walked = Lines(c, axes, x, y, r)
    c.implementation = f"{short(y.dtype)}_{c.node.op_type.lower()}_lines"
    lines = [[walked.operands[k], int8(walked.strides[k][0])] if walked.operands[k] is not None else [] for k in (1, 2)]
    c.launch(["place.clh", "group.clh", "normalize.cl"], "line_pool", {**walked.defines(True), mode: 1, "LINE_POOL": 1}, *walked.sizes(),
             *walked.walk(0), *lines[0], *walked.shape_args(), *i32(power),
             number(1 / max(1, int(np.prod(walked.reduced))), arithmetic(x.dtype)), *lines[1], numbers_last=True)

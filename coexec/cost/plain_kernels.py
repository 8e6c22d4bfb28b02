"""The rule of every operator without one of its own: elements, rows, runs and bytes, on either unit."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from ..graph.ir import Node
from .cases import SPLIT_BYTES, SPLIT_FLOPS, Case, K, M, beyond, level_of, pick
from .geometry import Facts, Plain, up


def plain(p: Plain, f: Facts, node: Node, unit: str) -> Iterator[Case]:
    """Pieces of nodes that are computed like this one."""
    elements, rows, runs, chunks, read, written = p.elements, p.rows, p.runs, p.chunks, p.read, p.written
    woken = np.zeros(len(elements), bool)
    if unit == "cpu" and f.threads > 1 and plain_name(node) != "gather":  # which holds Python's lock
        woken = (p.flops >= SPLIT_FLOPS) | (read + written >= SPLIT_BYTES)
        share = np.where(woken, f.threads, 1)
        elements, rows, runs, chunks, read, written = (v / share for v in (elements, rows, runs, chunks, read, written))
    total, width = read + written, f.lanes if unit == "cpu" else f.gpu_width
    level = level_of(total, f)
    terms = {
        "fixed": np.ones(len(elements)), "woken": woken * 1.0, "out_kelem": elements * K, "in_kelem": read / 4 * K, "rows_k": rows * K,
        "runs_k": runs * K, "chunks_k": chunks * K, "out_kvec": runs * up(elements, np.maximum(1, runs) * width) * K,
        "in_kvec": chunks * up(read, np.maximum(1, chunks) * 4 * width) * K, "mb_l2": total * M * (level == 1), "mb_l3": total * M * (level == 2),
        "mb_beyond": beyond(total, f), "mb_far": beyond(total, f, 4),
    }
    if node.op_type == "Concat":
        terms["parts"] = p.parts * 1.0
    if node.op_type == "Transpose" and node.output.dtype == np.float32:
        yield from _transposes(p, f, unit, Case("", np.arange(len(elements)), terms,
                                                {"elements": elements, "read": read, "runs": runs, "inner": p.inner}))
        return
    sizes = {"elements": elements, "inner": p.inner, "read": read, "run": elements / np.maximum(1, runs), "chunks": chunks}
    yield Case(plain_name(node), np.arange(len(elements)), terms, sizes)


#: Rows shorter than this the CPU does not copy as rows; long matrices of few rows with more elements it leaves to NumPy.
SHORTEST, LARGEST = 8, 1 << 14


def _transposes(p: Plain, f: Facts, unit: str, case: Case) -> Iterator[Case]:
    """Rows that stay side by side, or matrices that are turned: on the CPU by squares of vectors, or element by element."""
    run, height, width = p.turned.T
    if unit == "gpu":
        kinds = np.where(run > 1, "rows", "moved")
    else:
        narrow, short = np.minimum(height, width) < f.lanes, np.minimum(f.lanes, width)
        kinds = np.where(width == 0, "moved", np.where((height < short) & (p.elements > LARGEST), "moved", np.where(narrow, "narrow", "squares")))
        kinds = np.where(run >= SHORTEST, "rows", kinds)
    matrices = case.sizes["elements"] / np.maximum(1, height * width)
    squares = matrices * up(height, f.lanes) * up(width, f.lanes)
    more = {"matrices_k": matrices * K * (width > 0), "squares_k": squares * K, "lines_k": matrices * np.minimum(height, width) * K}
    sizes = {**case.sizes, "height": np.maximum(height, 1), "width": np.maximum(width, 1)}
    for kind in np.unique(kinds):
        yield pick(case._replace(kernel=f"plain/transpose_{kind}", terms={**case.terms, **more}, sizes=sizes), kinds == kind)  # type: ignore[misc]


def plain_name(node: Node) -> str:
    """The operator and its element type, told apart where its kernels differ much: which axis moves, which is reduced, what is broadcast."""
    return f"plain/{_form(node)}{'' if node.output.dtype == np.float32 else f'_{node.output.dtype.name}'}"


def _form(node: Node) -> str:
    name, rank = node.op_type.lower(), len(node.output.shape)
    if name == "transpose":
        perm = [int(v) for v in node.attr("perm") or range(rank)[::-1]]
        return f"transpose_{'kept' if perm[-1] == rank - 1 else 'moved'}"
    if name in ("softmax", "logsoftmax"):
        return f"{name}_{'rows' if int(node.attr('axis', -1)) % rank == rank - 1 else 'lines'}"
    if name == "resize":
        return f"resize_{node.attr('mode', 'nearest')}"
    if len([v for v in node.operands if v is not None]) > 1 and node.op_type in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"):
        return f"{name}{spread(node)}"
    if name == "pad":
        return "pad" if node.attr("mode", "constant") == "constant" else "pad_inside"  # whose elements are the input's, wherever they lie
    if name == "gather":  # a number that is known makes it a copy
        return f"{name}{'_one' if node.operands[1].is_constant and node.operands[1].type.size == 1 else ''}"
    return name


def spread(node: Node) -> str:
    """How operands of an elementwise operator are repeated: one number (`_scalar`), one row (`_row`), otherwise (`_broadcast`); "" where none is."""
    small = [v.shape for v in node.operands if v is not None and v.shape != node.output.shape]
    if not small:
        return ""
    if all(prod(s) == 1 for s in small):
        return "_scalar"
    return "_row" if all(prod(s) in (1, *s[-1:]) for s in small) else "_broadcast"

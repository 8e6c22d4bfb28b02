"""Concat of any type: each input's part copied where it belongs, once."""

from __future__ import annotations

import numpy as np

from .build import Piece, Program, builds


@builds("Concat")
def concat(piece: Piece) -> Program | None:
    """Any axis; a piece takes of each input what falls into it."""
    y, at, copies = piece.outputs[0], 0, []
    if piece.node.residual or piece.node.activation:
        return None
    axis = piece.node.attr("axis") % y.ndim
    for x in piece.inputs:
        if x.shape[axis] and x.size:
            copies.append((y[(slice(None),) * axis + (slice(at, at + x.shape[axis]),)], x))
        at += x.shape[axis]

    def run() -> None:
        for into, x in copies:
            np.copyto(into, x)

    return Program(f"{y.dtype.name}_concat", lambda scratch: run)

"""Nodes whose output types the test itself says: for cases that onnx.reference cannot run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coexec.graph.ir import Node, TensorType, Value, constant

from .law import Const


def hand_made(op_type: str, inputs: Sequence[np.ndarray | Const | None], outputs: Sequence[np.ndarray | None],
              attributes: dict[str, Any] | None = None) -> tuple[Node, list[np.ndarray | None]]:
    """A node and its input arrays, as `law.make_node` gives them, with outputs of the types of `outputs`."""
    values = tuple(None if i is None else constant(f"i{k}", i.data) if isinstance(i, Const) else
                   Value(f"i{k}", TensorType(i.dtype, i.shape)) for k, i in enumerate(inputs))
    made = tuple(None if o is None else Value(f"o{k}", TensorType(np.asarray(o).dtype, np.asarray(o).shape)) for k, o in enumerate(outputs))
    return Node(op_type, values, made, attributes or {}, name=op_type.lower()), [i.data if isinstance(i, Const) else i for i in inputs]

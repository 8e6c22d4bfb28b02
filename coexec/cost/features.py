"""THE feature function: fitting and predicting both use it, so they cannot drift apart. And the families that share a fit."""

from __future__ import annotations

import numpy as np

from ..graph.ir import Node
from ..ops import Work, op_for
from ..regions import Region
from .geometry import work_of

#: Columns of `features`, in order. A fitted term of column c is `us_per_<c>` (of `fixed`: `fixed_us`).
COLUMNS = ("fixed", "mflop", "mbyte", "mbyte_read", "mbyte_written", "kelement_out", "krow_out")

_FAMILIES = {
    "gemm": "Gemm",
    "matmul": "MatMul",
    "conv_transpose": "ConvTranspose",
    "pool": "MaxPool AveragePool LpPool",
    "reduction": "GlobalMaxPool GlobalAveragePool GlobalLpPool ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 "
                 "ReduceLogSum ReduceLogSumExp ReduceSumSquare ArgMax ArgMin CumSum CumProd",
    "normalization": "BatchNormalization InstanceNormalization GroupNormalization LayerNormalization RMSNormalization LRN LpNormalization "
                     "MeanVarianceNormalization",
    "softmax": "Softmax LogSoftmax Hardmax",
    "movement": "Transpose Concat Split Slice Pad Expand Tile Gather GatherElements GatherND ScatterElements ScatterND DepthToSpace "
                "SpaceToDepth Shape Size ConstantOfShape Range EyeLike Trilu ReverseSequence Compress OneHot",
    "view": "Reshape Flatten Squeeze Unsqueeze Identity Dropout",
    "resize": "Resize Upsample GridSample",
    # Elementwise functions that cost tens of operations an element: bound by arithmetic where an addition is bound by memory.
    "elementwise_slow": "Sigmoid Tanh Erf Gelu Exp Log Silu Swish Mish Softplus Softsign Elu Selu Celu HardSwish Sin Cos Tan Asin Acos "
                        "Atan Sinh Cosh Asinh Acosh Atanh Pow Sqrt Reciprocal Div Mod",
}
_FAMILY_OF = {op_type: family for family, types in _FAMILIES.items() for op_type in types.split()}

#: Every answer of `family`.
FAMILIES = ("conv_1x1", "conv_3x3", "conv_dense", "conv_depthwise", "conv_grouped", *_FAMILIES, "elementwise", "other")


def family(node: Node) -> str:
    """Which fit serves this node: operators of one family take time in the same way."""
    if node.domain not in ("", "coexec"):
        return "other"
    if node.op_type != "Conv":
        return _FAMILY_OF.get(node.op_type, "elementwise")
    weights = node.inputs[1].shape
    group = int(node.attr("group", 1))
    if group > 1:
        return "conv_depthwise" if weights[1] == 1 else "conv_grouped"
    kernel = tuple(weights[2:])
    if all(k == 1 for k in kernel):
        return "conv_1x1"
    plain = all(s == 1 for s in node.attr("strides") or ()) and all(d == 1 for d in node.attr("dilations") or ())
    return "conv_3x3" if plain and kernel == (3, 3) else "conv_dense"  # only the former has fast (Winograd) algorithms


def features(node: Node, region: Region) -> np.ndarray:
    """The features of the piece `region` of the node's first output: float64[len(COLUMNS)].

    mflop: millions of operations, a multiply-add counts as two. mbyte*: millions of bytes moved once. kelement_out: thousands of
    output elements. krow_out: thousands of output rows (all axes but the last), what loops over rows pay for.
    """
    work: Work = op_for(node).work(node, region)
    # A gather reads the rows that it is asked for, wherever they lie, not the whole table.
    read = min(work.bytes_read, 2 * work.bytes_written) if node.op_type.startswith("Gather") else work.bytes_read
    rows = region.size // max(1, region[-1].size) if len(region) else 1
    return np.array([1.0, work.flops / 1e6, (read + work.bytes_written) / 1e6, read / 1e6, work.bytes_written / 1e6,
                     region.size / 1e3, rows / 1e3])


def features_of(node: Node, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """`features` of many pieces that are not empty, given by starts and stops, int64 (pieces, rank): float64 (pieces, len(COLUMNS))."""
    flops, read, written = work_of(node, start, stop).T
    if node.op_type.startswith("Gather"):
        read = np.minimum(read, 2 * written)
    size = np.prod(stop - start, axis=1, dtype=np.int64)
    rows = size // np.maximum(1, stop[:, -1] - start[:, -1]) if start.shape[1] else np.ones(len(size))
    return np.stack([np.ones(len(size)), flops / 1e6, (read + written) / 1e6, read / 1e6, written / 1e6, size / 1e3, rows / 1e3], axis=1)


def term(column: str) -> str:
    """The name in a profile of a column's coefficient."""
    return "fixed_us" if column == "fixed" else f"us_per_{column}"


#: A term's name -> its column in `features`.
COLUMN_OF_TERM = {term(column): index for index, column in enumerate(COLUMNS)}

#!/usr/bin/env python3
"""Build the thirteen ONNX models that tests and benchmarks run on.

Each model is a published architecture with seeded random weights, so nothing is downloaded and
the same command writes the same bytes on every machine.  Random weights alone make a poor test:
signals die, blow up, or stop depending on the input.  The builder therefore follows a rough mean
and variance through the graph, scales every filter by them, and gives each normalization the
statistics that trained weights would have left there (see `Net` in models/net.py).

Importable: `ARCHITECTURES`, `make_model`, `make_input`, `count_flops`, `count_parameters`.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

# First, so that a folder of built models called models/ is never taken for the package.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from models.net import BATCH_SYMBOL, Dice, Net  # noqa: E402

from models import ARCHITECTURES  # noqa: E402

MIN_OPSET = 17  # the first with LayerNormalization


def make_model(name: str, seed: int = 0, opset: int = MIN_OPSET, batch_symbol: bool = False,
               scale: str = "full") -> onnx.ModelProto:
    """Builds architecture `name` (a key of `ARCHITECTURES`) as a float32 model.

    Image models take `input` [1, 3, H, W]; bert_mini takes `input_ids` and `attention_mask`, int64
    [1, 128].  `batch_symbol` makes the batch dim of inputs and outputs "N" instead of 1; scale
    "tiny" keeps the topology with about an eighth of the channels and a quarter of the image side.
    """
    if problem := unknown_name([name]):
        raise ValueError(problem)
    if scale not in ("full", "tiny"):
        raise ValueError(f"scale {scale!r} is neither 'full' nor 'tiny'")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative")
    if not MIN_OPSET <= opset <= onnx.defs.onnx_opset_version():
        raise ValueError(f"opset {opset} is outside {MIN_OPSET}..{onnx.defs.onnx_opset_version()}")
    net = Net(name, seed, batch_symbol, scale == "tiny")
    ARCHITECTURES[name](net)
    graph = helper.make_graph(net.nodes, name, net.inputs, net.outputs, net.weights)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, producer_name="coexec",
                             ir_version=helper.find_min_ir_version_for(opsets))


def make_input(model: str | onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """A seeded feed {input name: array} for a model, or for an architecture at full size.

    Float inputs [N, C, H, W] are image-like with unit variance, other float inputs uniform of unit
    variance; integer inputs are ids below the rows of the table that they index, and ones where
    they index none (masks).  Symbolic dims become 1.
    """
    graph = (make_model(model) if isinstance(model, str) else model).graph
    dice, rows = Dice(seed, f"input of {graph.name}"), table_rows(graph)
    weights = {weight.name for weight in graph.initializer}
    feed = {}
    for value in (value for value in graph.input if value.name not in weights):
        tensor = value.type.tensor_type
        shape = [dim.dim_value or 1 for dim in tensor.shape.dim]
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if np.issubdtype(kind, np.floating):
            array = picture(dice, shape) if len(shape) == 4 else dice.uniform(shape, -1, 1) * 3**0.5
        elif value.name in rows:
            words = dice.words(math.prod(shape)) % np.uint64(rows[value.name])
            array = words.reshape(shape)
        else:
            array = np.ones(shape)
        feed[value.name] = array.astype(kind)
    return feed


def table_rows(graph: onnx.GraphProto) -> dict[str, int]:
    """For each tensor that a Gather reads as row indices of a weight: that weight's row count."""
    dims = {weight.name: weight.dims for weight in graph.initializer}
    gathers = [node.input for node in graph.node if node.op_type == "Gather"]
    return {ids: dims[table][0] for table, ids in gathers if table in dims}


def picture(dice: Dice, shape: Sequence[int]) -> np.ndarray:
    """Squares of 32, 8 and 1 pixels, summed: as in a photo, not all detail averages away."""
    *lead, height, width = shape
    layers = []
    for square in (32, 8, 1):
        coarse = dice.uniform([*lead, -(-height // square), -(-width // square)], -1, 1)
        layers.append(coarse.repeat(square, -2).repeat(square, -1)[..., :height, :width])
    return layers[0] + layers[1] + layers[2]  # each has a third of the variance


# -- sizes -------------------------------------------------------------------------------------


def count_parameters(model: onnx.ModelProto) -> int:
    """The number of float elements in the model's initializers."""
    return sum(math.prod(w.dims) for w in model.graph.initializer
               if w.data_type == TensorProto.FLOAT)


def count_flops(model: onnx.ModelProto) -> int:
    """Twice the multiply-adds of Conv, ConvTranspose, Gemm and MatMul, for batch 1."""
    shapes = infer_shapes(model)
    return 2 * sum(MACS[node.op_type](node, shapes) for node in model.graph.node
                   if node.op_type in MACS)


def infer_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Every tensor's shape by name, symbolic dims as 1."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    for weight in model.graph.initializer:  # large ones by shape only: copying them takes seconds
        if math.prod(weight.dims) > 64:
            info = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            bare.graph.input.append(info)
        else:
            bare.graph.initializer.append(weight)
    graph = shape_inference.infer_shapes(bare, strict_mode=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    dims = {value.name: value.type.tensor_type.shape.dim for value in values}
    shapes = {name: [dim.dim_value or 1 for dim in shape] for name, shape in dims.items()}
    return shapes | {weight.name: list(weight.dims) for weight in graph.initializer}


def _conv_macs(node, shapes) -> int:
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _upconv_macs(node, shapes) -> int:
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _matmul_macs(node, shapes) -> int:
    # Right for Gemm too: this file transposes only its weight.
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


MACS = {"Conv": _conv_macs, "ConvTranspose": _upconv_macs, "Gemm": _matmul_macs,
        "MatMul": _matmul_macs}


# -- command line ------------------------------------------------------------------------------

EXAMPLES = """examples:
  %(prog)s                            all thirteen models into models/ (about 1.2 GB)
  %(prog)s -o /tmp/m resnet18 vgg16   two of them, elsewhere
  %(prog)s --scale tiny               small ones for tests, NAME_tiny.onnx
  %(prog)s --batch-symbol resnet50    with a symbolic batch dim, resnet50_batch.onnx
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description="Build ONNX models with seeded random weights.",
                                epilog=EXAMPLES, allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", metavar="NAME", help="architectures (default: all)")
    p.add_argument("-o", "--output", type=Path, default=Path("models"), metavar="DIR",
                   help="folder to write to, made if missing (default: models)")
    p.add_argument("--list", action="store_true", help="list the architectures and exit")
    p.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    p.add_argument("--opset", type=int, default=MIN_OPSET,
                   help=f"ONNX opset, at least {MIN_OPSET} (default: {MIN_OPSET})")
    p.add_argument("--batch-symbol", action="store_true",
                   help=f"make the batch dim symbolic ({BATCH_SYMBOL}) instead of 1")
    p.add_argument("--scale", choices=("full", "tiny"), default="full",
                   help="tiny: an eighth of the channels, a quarter of the sides (default: full)")
    p.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return p


def unknown_name(names: Sequence[str]) -> str | None:
    """What to say about the first name that is no architecture; None where all are known."""
    for name in names:
        if name not in ARCHITECTURES:
            close = difflib.get_close_matches(name.lower(), ARCHITECTURES, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]!r}?" if close else "--list shows them all"
            return f"unknown model {name!r}; {hint}"
    return None


def write(model: onnx.ModelProto, path: Path) -> int:
    """Writes the model so that `path` is never half a file; returns its size in bytes."""
    data = model.SerializeToString(deterministic=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return len(data)


def build(name: str, options: argparse.Namespace) -> str:
    """Makes and writes one model; returns the line to print about it."""
    model = make_model(name, options.seed, options.opset, options.batch_symbol, options.scale)
    suffix = "_tiny" * (options.scale == "tiny") + "_batch" * options.batch_symbol
    size = write(model, options.output / f"{name}{suffix}.onnx")
    return (f"{name + suffix:<28} {size / 1e6:8.1f} MB {count_parameters(model) / 1e6:8.2f} Mparam "
            f"{count_flops(model) / 1e9:8.3f} GFLOP {len(model.graph.node):5d} nodes")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 on a failed write, 2 on a bad argument)."""
    p = parser()
    options = p.parse_args(arguments)
    if options.list:
        print("\n".join(f"{n:<20} {f.__doc__.splitlines()[0]}" for n, f in ARCHITECTURES.items()))
        return 0
    if problem := unknown_name(options.names):
        print(f"{p.prog}: error: {problem}", file=sys.stderr)
        return 2
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        for name in dict.fromkeys(options.names or ARCHITECTURES):
            line = build(name, options)
            if not options.quiet:
                print(line, flush=True)
    except ValueError as error:
        print(f"{p.prog}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{p.prog}: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

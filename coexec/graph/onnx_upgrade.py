"""Old forms of operators in the newest form, so that every operator is defined once.

Only what changed shape needs a rule: attributes that became inputs, and three operators whose meaning moved (Softmax, Upsample, Resize).
Where an old form has no newest equivalent the node keeps its version, and ONNX's reference computes it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .onnx_semantics import LATEST

Nodes = list[onnx.NodeProto]


class Upgrader:
    """Collects the nodes and constants that rules add; names are made unique with the node's own name."""

    def __init__(self) -> None:
        self.constants: list[onnx.TensorProto] = []
        self._count = 0

    def fresh(self, hint: str) -> str:
        self._count += 1
        return f"{hint}/coexec_{self._count}"

    def constant(self, hint: str, array: np.ndarray) -> str:
        name = self.fresh(hint)
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def upgrade(self, node: onnx.NodeProto, version: int) -> tuple[Nodes, int]:
        """The node in its newest form, and the version to read it by; unchanged at its own version where no rule can help."""
        for before, rule in RULES.get(node.op_type, ()):
            if version < before:
                nodes = rule(self, node, version)
                return (nodes, LATEST) if nodes is not None else ([node], version)
        return [node], LATEST


def _attributes(node: onnx.NodeProto) -> dict:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _remade(node: onnx.NodeProto, op_type: str, inputs: list[str], attributes: dict, outputs: list[str] | None = None) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, list(node.output) if outputs is None else outputs, name=node.name, **attributes)


def _axes_to_input(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    attributes = _attributes(node)
    if "axes" not in attributes:
        return [node]
    axes = up.constant(node.name, np.array(attributes.pop("axes"), np.int64))
    return [_remade(node, node.op_type, [node.input[0], axes], attributes)]


def _clip(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    nodes, inputs = [], [node.input[0]]
    attributes = _attributes(node)
    for name in ("min", "max"):
        if name not in attributes:
            inputs.append("")
            continue
        bound, like = up.constant(node.name, np.float32(attributes[name])), up.fresh(node.name)
        nodes.append(helper.make_node("CastLike", [bound, node.input[0]], [like], name=like))
        inputs.append(like)
    return [*nodes, _remade(node, "Clip", inputs, {})]


def _dropout(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    if len(node.output) > 1 and node.output[1]:
        return None
    return [_remade(node, "Dropout", [node.input[0]], {}, [node.output[0]])]


def _slice(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    attributes = _attributes(node)
    inputs = [node.input[0]] + [up.constant(node.name, np.array(attributes[k], np.int64)) for k in ("starts", "ends")]
    if "axes" in attributes:
        inputs.append(up.constant(node.name, np.array(attributes["axes"], np.int64)))
    return [_remade(node, "Slice", inputs, {})]


def _split(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    attributes = _attributes(node)
    inputs, kept = list(node.input), {"axis": attributes.get("axis", 0)}
    if "split" in attributes:
        inputs.append(up.constant(node.name, np.array(attributes["split"], np.int64)))
    elif len([i for i in inputs if i]) < 2:
        kept["num_outputs"] = len(node.output)
    return [_remade(node, "Split", inputs, kept)]


def _pad(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    attributes = _attributes(node)
    pads = up.constant(node.name, np.array(attributes["pads"], np.int64))
    value, like = up.constant(node.name, np.float32(attributes.get("value", 0.0))), up.fresh(node.name)
    cast = helper.make_node("CastLike", [value, node.input[0]], [like], name=like)
    return [cast, _remade(node, "Pad", [node.input[0], pads, like], {"mode": attributes.get("mode", b"constant")})]


def _coerced_softmax(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    """Before opset 13 the input was flattened to two dimensions at `axis` (default 1), and the second one normalised."""
    flat, soft, shape = (up.fresh(node.name) for _ in range(3))
    x = node.input[0]
    return [
        helper.make_node("Flatten", [x], [flat], name=flat, axis=_attributes(node).get("axis", 1)),
        helper.make_node(node.op_type, [flat], [soft], name=soft, axis=-1),
        helper.make_node("Shape", [x], [shape], name=shape),
        helper.make_node("Reshape", [soft, shape], list(node.output), name=node.name),
    ]


def _upsample(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    """Upsample and the first Resize were asymmetric, and rounded down where they picked the nearest."""
    attributes = _attributes(node)
    scales = up.constant(node.name, np.array(attributes["scales"], np.float32)) if "scales" in attributes else node.input[1]
    return [_remade(node, "Resize", [node.input[0], "", scales], {
        "mode": attributes.get("mode", b"nearest"), "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})]


def _resize_11(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    gone = _attributes(node).get("coordinate_transformation_mode") == b"tf_half_pixel_for_nn"
    return None if gone else [node]


def _batch_normalization(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    attributes = _attributes(node)
    if attributes.get("spatial", 1) != 1 or len([o for o in node.output if o]) > 1:
        return None
    return [_remade(node, "BatchNormalization", list(node.input), {"epsilon": attributes.get("epsilon", 1e-5)}, [node.output[0]])]


def _scatter(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    return [_remade(node, "ScatterElements", list(node.input), _attributes(node))]


def _keep(up: Upgrader, node: onnx.NodeProto, version: int) -> Nodes | None:
    return None


Rule = Callable[[Upgrader, onnx.NodeProto, int], "Nodes | None"]

#: op_type -> (first version that needs no rule, rule), lowest version first.
RULES: dict[str, tuple[tuple[int, Rule], ...]] = {
    "Clip": ((11, _clip),),
    "Dropout": ((12, _dropout),),
    "Squeeze": ((13, _axes_to_input),),
    "Unsqueeze": ((13, _axes_to_input),),
    "ReduceSum": ((13, _axes_to_input),),
    **{f"Reduce{kind}": ((18, _axes_to_input),) for kind in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")},
    "Slice": ((10, _slice),),
    "Split": ((18, _split),),
    "Pad": ((11, _pad),),
    "Softmax": ((13, _coerced_softmax),),
    "LogSoftmax": ((13, _coerced_softmax),),
    "Hardmax": ((13, _coerced_softmax),),
    "Upsample": ((LATEST + 1, _upsample),),
    "Resize": ((11, _upsample), (13, _resize_11)),
    "BatchNormalization": ((14, _batch_normalization),),
    "GroupNormalization": ((21, _keep),),
    "Scatter": ((LATEST + 1, _scatter),),
}

#: Operators that ONNX took back; a rule gives each its successor.
DEPRECATED = frozenset({"Upsample", "Scatter"})

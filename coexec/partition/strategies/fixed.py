"""fixed: every node cut at one ratio."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import UsageError, suggest
from ...graph.ir import Node
from ..plan import Partition, on_one_device
from .base import Partitioner, Situation, preferred_axis, register, share

AXES = ("batch", "channel", "depth", "height", "width", "length", "rows", "columns", "heads")


def check_axis(axis: str, strategy: str) -> None:
    """Raises UsageError unless that is no axis, or the name of one."""
    if axis and axis not in AXES and not re.fullmatch(r"axis\d+", axis):
        raise UsageError(f"option 'axis' of strategy '{strategy}' is wrong", found=repr(axis), hint=suggest(axis, AXES))


@register
@dataclass(frozen=True)
class Fixed(Partitioner):
    """The GPU gets the share `gpu` (0 to 1) of every node that can be cut, along its first axis, or along `axis` where that is legal.

    A node that cannot be cut goes whole to the side with the larger share. Raises UsageError for a share outside 0..1.
    """

    name = "fixed"
    gpu: float = 0.5
    axis: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.gpu <= 1:
            raise UsageError("option 'gpu' of strategy 'fixed' is wrong", found=self.gpu, expected="a share from 0 to 1")
        check_axis(self.axis, self.name)

    @property
    def spec(self) -> str:
        return f"fixed:gpu={self.gpu:g}" + (f",axis={self.axis}" if self.axis else "")

    @property
    def needs_gpu(self) -> bool:
        return self.gpu > 0

    @property
    def uses_gpu(self) -> bool:
        return self.gpu > 0

    def place(self, node: Node, situation: Situation) -> Partition:
        axis = preferred_axis(node, self.axis)
        if axis is None:
            return on_one_device(node, "gpu" if self.gpu >= 0.5 else "cpu")
        return share(node, axis, self.gpu)

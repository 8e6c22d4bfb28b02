"""Wishes: what a user asks of a plan besides being fast."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import UsageError, suggest

OBJECTIVES = ("latency", "energy")


@dataclass(frozen=True)
class Wishes:
    """force: node name -> cpu or gpu, whatever the strategy would do. max_gpu_share: of each operator's output, the GPU computes at most so much;
    what is forced is exempt. objective: `latency`, or `energy` by the profile's power model. memory_bytes: packed weights and activations
    together, as modelled; None: no limit. The last two are for strategy `coexec`; other strategies take no notice of them.

    Raises UsageError for anything else.
    """

    force: Mapping[str, str] = field(default_factory=dict)
    max_gpu_share: float = 1.0
    objective: str = "latency"
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, device in self.force.items():
            if device not in ("cpu", "gpu"):
                raise UsageError(f"cannot force node '{name}'", found=repr(device), expected="cpu or gpu")
        if not (isinstance(self.max_gpu_share, (int, float)) and 0 <= self.max_gpu_share <= 1):
            raise UsageError("the GPU's largest share of an operator is wrong", found=self.max_gpu_share, expected="a number from 0 to 1")
        if self.objective not in OBJECTIVES:
            raise UsageError("unknown objective", found=repr(self.objective), expected=" or ".join(OBJECTIVES), hint=suggest(self.objective, OBJECTIVES))
        if self.memory_bytes is not None and not (math.isfinite(self.memory_bytes) and self.memory_bytes > 0):
            raise UsageError("the memory limit is wrong", found=self.memory_bytes, expected="bytes, above 0")

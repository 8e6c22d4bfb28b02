"""Wishes: what a user asks of a plan besides being fast."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError, suggest

OBJECTIVES = ("latency", "energy")


@dataclass(frozen=True)
class Wishes:
    """force: node name -> cpu or gpu, whatever the strategy would do. max_gpu_share: of each operator's output, the GPU computes at most so much;
    what is forced is exempt. objective: `latency`, or `energy` by the profile's power model. memory_bytes: packed weights and activations
    together, as modelled; None: no limit.

    Strategy `coexec` looks for the best plan under all of them; what the others would do is limited by the first two, and refused where it
    breaks the last. Raises UsageError for anything else, and where two wishes contradict one another.
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
            raise UsageError("unknown objective", found=repr(self.objective), expected=" or ".join(OBJECTIVES),
                             hint=suggest(self.objective, OBJECTIVES))
        if self.memory_bytes is not None and not (isinstance(self.memory_bytes, (int, float)) and math.isfinite(self.memory_bytes)
                                                  and self.memory_bytes > 0):
            raise UsageError("the memory limit is wrong", found=self.memory_bytes, expected="bytes, above 0")
        there = next((name for name, device in self.force.items() if device == "gpu"), None)
        if there is not None and self.max_gpu_share == 0:
            raise UsageError("two wishes contradict one another", found=f"node '{there}' forced to the gpu, and no share of any operator for the gpu",
                             hint="leave one of them out")

    def __bool__(self) -> bool:
        return self != Wishes()

    def __str__(self) -> str:
        """As the command line takes them; "" for none."""
        told = [f"--force {name}={device}" for name, device in self.force.items()]
        told += [f"--max-gpu-share {self.max_gpu_share:g}"] if self.max_gpu_share < 1 else []
        told += [f"--objective {self.objective}"] if self.objective != "latency" else []
        told += [f"--memory-limit {self.memory_bytes}"] if self.memory_bytes is not None else []
        return " ".join(told)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"force": dict(self.force), "max_gpu_share": self.max_gpu_share, "objective": self.objective, "memory_bytes": self.memory_bytes}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Wishes:
        """The inverse of `to_dict`; what is missing is not wished. Raises UsageError."""
        force = data.get("force", {})
        if not isinstance(force, Mapping):
            raise UsageError("what is forced is wrong", found=repr(force), expected="node names and devices")
        return cls(dict(force), data.get("max_gpu_share", 1.0), data.get("objective", "latency"), data.get("memory_bytes"))


#: Nothing besides being fast.
NONE = Wishes()

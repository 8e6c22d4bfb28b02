"""How a session runs, as its caller asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..partition.wishes import Wishes
from ..runtime.trace import Trace
from .models import Shapes

#: Told (done, of, what).
Progress = Callable[[int, int, str], None]


@dataclass
class SessionOptions:
    """How a session runs. `intra_op_num_threads` 0: every core; beside an emulated GPU, whatever was asked for, at most those that it leaves.

    strict: fail where a node cannot run where the plan puts it, or its device fails, instead of moving it to the CPU.
    device_retries: how many times a device that failed is tried again, each time with the next run; `retry_device` does so when told.
    check: compare every node with the unsplit reference, in every run.
    force: node name -> device, against the strategy's choice. max_gpu_share: of each operator, the GPU computes at most so much (0 to 1).
    objective: `latency`, or `energy` by the watts that the profile tells (modelled). memory_limit: bytes that packed weights and activations
        may take together, as modelled; strategy `coexec` looks for the best plan that fits. None: no limit.
    shapes: input name -> shape, for models with symbolic dimensions; else the first run decides.
    gpu: the OpenCL device, PLATFORM:DEVICE, or `none`.
    tune_budget_s: seconds at most in which to try kernel forms for the GPU's pieces of the plan that were not tuned before; kept on disk.
    verify: check the strategy's plan by measurement when the session is made: runs correct the cost model, it plans again, and the fastest is
        kept, the CPU's and the GPU's own plans among the candidates. Takes seconds; remembered, so that later sessions start with it.
    adapt: watch how long runs take; where that drifts away from what was predicted, because of another load or a device that throttles, plan again
        beside the runs and swap the plan between two of them. `session.replans` tells.
    progress: called with (done, of, what) while the session measures a machine that has no profile, tunes, verifies and compiles, and in its
        first run.
    enable_profiling: trace the session's making and its runs, for `end_profiling` to write; or a Trace that was begun before.
    profile_file_prefix: where `end_profiling` writes unless it is told: PREFIX_DATE_TIME.json.
    """

    intra_op_num_threads: int = 0
    strict: bool = False
    device_retries: int = 0
    check: bool = False
    force: Mapping[str, str] = field(default_factory=dict)
    max_gpu_share: float = 1.0
    objective: str = "latency"
    memory_limit: int | None = None
    shapes: Shapes = field(default_factory=dict)
    gpu: str = ""
    tune_budget_s: float = 0.0
    verify: bool = False
    adapt: bool = False
    progress: Progress | None = None
    enable_profiling: bool | Trace = False
    profile_file_prefix: str = "coexec_profile"

    @property
    def wishes(self) -> Wishes:
        """What is asked of plans. Raises UsageError where it is no sense, or contradicts itself."""
        return Wishes(dict(self.force), self.max_gpu_share, self.objective, self.memory_limit)

    def telling(self, work: str) -> Progress | None:
        """The progress that was asked for, which is told what is being done, too; None where nobody asked."""
        told = self.progress
        return None if told is None else lambda done, total, what: told(done, total, f"{work}, {what}" if what else work)

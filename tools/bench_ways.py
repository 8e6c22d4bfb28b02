#!/usr/bin/env python3
"""Convolutions timed each way that there is to make them: by how much longer the rule's choice (coexec/ops/conv_ways.py) takes than the best way.

    python tools/bench_ways.py [--units cpu,gpu] [--every 1] [--json F]

Small maps, few and many channels, pieces of both; kernels of 1x1 to 7x7. Each is timed as `coexec profile` times kernels, in company, its weights
cold, twice a way; the less counts. What the choice is held against are the ways that the rule chooses from; where there is but one, nothing is timed.
With --every 10 only each tenth is taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from coexec.devices.registry import find_devices
from coexec.graph.ir import Node, TensorType, Value, constant
from coexec.profiling.rounds import COMPANY, Round
from coexec.regions import Region

#: Kernels' sides and strides, maps (height, width), input and output channels.
KERNELS = ((3, 1), (1, 1), (3, 2), (5, 1), (7, 1))
MAPS = ((2, 7), (7, 7), (10, 10), (7, 14), (14, 14), (4, 28), (20, 20), (28, 28))
CHANNELS = (8, 24, 64, 160, 512), (8, 16, 40, 64, 160, 512)
#: No convolution has more multiply-adds.
MOST_WORK = 3e8
#: By unit, the ways that are forced, each by what is replaced while kernels are compiled.
WAYS = {"cpu": ("rows", "vectors", "winograd2", "winograd4", "blocks"), "gpu": ("panel", "winograd2", "winograd4", "blocks")}


class Case(NamedTuple):
    side: int
    stride: int
    height: int
    width: int
    ic: int
    oc: int

    def node(self, rng: np.random.Generator) -> Node:
        side, stride, pad = self.side, self.stride, self.side // 2
        kind = TensorType(np.dtype(np.float32), (1, self.ic, self.height * stride, self.width * stride))
        made = TensorType(np.dtype(np.float32), (1, self.oc, self.height, self.width))
        end = pad - (stride - 1) * (side > 1)
        weights = constant("w", rng.standard_normal((self.oc, self.ic, side, side)).astype(np.float32))
        return Node("Conv", (Value("x", kind), weights), (Value("y", made),),
                    {"kernel_shape": [side] * 2, "pads": [pad, pad, end, end], "strides": [stride] * 2, "dilations": [1, 1], "group": 1}, name="conv")

    def possible(self, unit: str) -> tuple[str, ...]:
        """The ways that it can be made by there."""
        if (self.side, self.stride) == (3, 1):
            more = ("winograd2", "winograd4")
        else:
            more = ("blocks",) if self.stride == 1 and self.side > 3 else ()
        return WAYS[unit][:WAYS[unit].index("winograd2")] + more


def cases(every: int) -> list[Case]:
    found = [Case(*kernel, *size, ic, oc) for kernel, size, ic, oc in product(KERNELS, MAPS, *CHANNELS)]
    return [c for c in found if c.height * c.width * c.ic * c.oc * c.side**2 <= MOST_WORK][::every]


def forced(unit: str, way: str) -> ExitStack:
    """Has kernels compiled by that way; `rule`: by the rule."""
    stack = ExitStack()
    if way == "rule":
        return stack
    if unit == "cpu":
        stack.enter_context(patch("coexec.devices.cpu.conv.best", lambda *asked: way))
        return stack
    from coexec.devices.opencl import conv

    choose = conv.choose
    method = "panel" if way == "panel" else "winograd"
    stack.enter_context(patch("coexec.devices.opencl.conv.choose", lambda s, tiles, wanted=None: choose(s, tiles, method)))
    if way in ("winograd2", "winograd4"):
        stack.enter_context(patch("coexec.ops.conv_ways.TILES", (int(way[-1]),)))
    return stack


def timed(unit: str, device: Any, wanted: list[Case]) -> Iterator[dict[str, Any]]:
    """Of each: microseconds by way, and the kernel that the rule takes."""
    rng = np.random.default_rng(0)
    for at in range(0, len(wanted), COMPANY):
        some = wanted[at:at + COMPANY]
        nodes = [case.node(rng) for case in some]
        us: list[dict[str, float]] = [{} for _ in some]
        names: list[dict[str, str]] = [{} for _ in some]
        for way in ("rule", *WAYS[unit]) * 2:
            mine = [i for i, case in enumerate(some) if way == "rule" or way in case.possible(unit)]
            if not mine:
                continue
            with forced(unit, way), Round(device, [(nodes[i], Region.whole(nodes[i].output.shape)) for i in mine]) as made:
                for i, timing, turn in zip(mine, made.time(), made.turns):
                    if timing is not None:
                        us[i][way] = min(us[i].get(way, np.inf), timing.median_us)
                        names[i][way] = turn.kernel.implementation
        for case, took, kernels in zip(some, us, names):
            chosen = [way for way in took if way != "rule" and kernels[way] == kernels.get("rule")]
            if chosen:  # few channels have kernels of their own: nothing is chosen there
                yield {"unit": unit, **case._asdict(), "us": took, "chosen": chosen[0]}
        print(f"{unit}: {min(at + COMPANY, len(wanted))} of {len(wanted)}", file=sys.stderr)


def longer(row: dict[str, Any]) -> float:
    """By what share the chosen way takes longer than the best."""
    ways = {way: us for way, us in row["us"].items() if way != "rule"}
    return ways[row["chosen"]] / min(ways.values()) - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", default="cpu,gpu", help="(default: %(default)s)")
    parser.add_argument("--every", type=int, default=1, help="take each so manieth convolution only (default: all)")
    parser.add_argument("--json", type=Path, help="write every time there")
    options = parser.parse_args()
    devices, rows = find_devices(), []
    for unit in options.units.split(","):
        if unit not in WAYS or unit not in devices:
            print(f"bench_ways: there is no unit {unit}; there are: {', '.join(devices)}", file=sys.stderr)
            return 2
        rows += timed(unit, devices[unit], [case for case in cases(options.every) if len(case.possible(unit)) > 1])
    print("| unit | kernel | stride | convolutions | the choice takes longer by, mean | nine of ten at most | worst |\n|---|---|---|---|---|---|---|")
    for unit in options.units.split(","):
        own = [r for r in rows if r["unit"] == unit]
        groups = [(f"{side}x{side}", stride, [r for r in own if (r["side"], r["stride"]) == (side, stride)]) for side, stride in KERNELS]
        for kernel, stride, mine in (*groups, ("all", "", own)):
            if mine:
                shares = [longer(r) for r in mine]
                print(f"| {unit} | {kernel} | {stride} | {len(mine)} | {np.mean(shares):.1%} | {np.quantile(shares, 0.9):.1%} | {max(shares):.1%} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

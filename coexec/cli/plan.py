"""Decides how every operator of a model is cut between CPU and GPU, and shows what that should take."""

from __future__ import annotations

import argparse
from typing import Any

from . import options as shared
from .console import Console, milliseconds, table
from .session import profile

HELP = "how a model is cut, and what it should take"
EXAMPLES = (
    "coexec plan model.onnx",
    "coexec plan model.onnx --profile profiles/board.yaml         for a board that is not here",
    "coexec plan model.onnx --strategy flops -o plan.json",
    "coexec plan model.onnx --explain",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    shared.model(parser)
    shared.planning(parser)
    parser.add_argument("-o", "--output", metavar="PLAN.json", help="save the plan, for `coexec run --plan`")
    parser.add_argument("--explain", action="store_true", help="beside each operator what it would take on one device alone")


def execute(options: argparse.Namespace, console: Console) -> int:
    from .. import api

    target = shared.writable(options.output)
    graph = api.load(options.model)
    graph = api.bind(graph, api.default_shapes(graph, dict(options.shape)))
    known = profile(options, [options.strategy], console)
    asked = {"profile": known, "force": dict(options.force)}
    made = api.plan(graph, strategy=options.strategy, **asked)
    alone = {name: api.plan(graph, strategy=name, profile=known) for name in ("cpu", "gpu")} if options.explain else {}
    if target is not None:
        made.save(target)
    estimated = estimated_share(made)
    console.emit(
        {
            **made.to_dict(),
            "model": options.model,
            "estimated_share": estimated,
            **({"alone": {name: {p.name: p.predicted_us for p in other.partitions} for name, other in alone.items()}} if alone else {}),
        }
    )
    show(made, alone, console)
    if made.predicted_ms is None:
        total = "time unknown, this strategy asks no profile"
    else:
        total = f"{milliseconds(made.predicted_ms)} ms, of which {100 * estimated:.0f} % is a rough estimate (~)"
    console.result(
        f"total: {total}; {len(made.partitions)} operators, {split_count(made)} split, {len(made.chains)} chains; "
        f"planned in {milliseconds(made.planning_ms)} ms"
    )
    for name, other in alone.items():
        console.result(f"{name} alone: {milliseconds(other.predicted_ms)} ms")
    if target is not None:
        console.note(f"wrote {target}")
    return 0


def split_count(plan: Any) -> int:
    """How many operators run on more than one device."""
    return sum(len(set(p.devices)) > 1 for p in plan.partitions)


def estimated_share(plan: Any) -> float:
    """Which part of the predicted time rests on a rough estimate instead of a fitted model; 1 where nothing is predicted."""
    total = sum(p.predicted_us or 0 for p in plan.partitions)
    return sum(p.predicted_us or 0 for p in plan.partitions if p.estimated) / total if total else 1.0


def show(plan: Any, alone: dict[str, Any], console: Console) -> None:
    """The plan, a line per operator; `~` marks a rough estimate."""
    number = lambda us, mark="": "- " if us is None else f"{us:.1f}{mark}"  # noqa: E731
    rows = []
    for p in plan.partitions:
        cut = "whole" if p.axis is None or len(p.devices) == 1 else f"{p.axis} {'|'.join(map(str, p.bounds))}"
        rows.append(
            (
                p.name[-36:],
                p.op_type[:20],
                cut,
                "|".join(p.devices),
                number(p.predicted_us, "~" if p.estimated else " "),
                *(number(other[p.name].predicted_us) for other in alone.values()),
                p.note,
            )
        )
    console.result(
        table(rows, ("node", "operator", "cut", "on", "us ", *(f"{name} us" for name in alone), "note"), "llllr" + "r" * len(alone) + "l")
    )

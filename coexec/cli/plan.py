"""Decides how every operator of a model is cut between CPU and GPU, and shows what that should take."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import UsageError
from . import options as shared
from .console import Console, milliseconds, table
from .session import profile

HELP = "how a model is cut, and what it should take"
EXAMPLES = (
    "coexec plan model.onnx",
    "coexec plan model.onnx --profile profiles/board.yaml  # for a board that is not here",
    "coexec plan model.onnx --strategy flops -o plan.json",
    "coexec plan model.onnx --explain                      # beside what each device alone would take",
    "coexec plan model.onnx --explain conv                 # why this cut, what it costs, and the runners-up",
    "coexec plan model.onnx --force conv=cpu --max-gpu-share 0.5 --memory-limit 200M",
    "coexec plan model.onnx --profile watts.yaml --objective energy  # the least energy, by power_w and idle_w in the profile",
    "coexec plan --diff old.json new.json                  # which nodes two saved plans place differently",
)
NOTES = """No device is touched where --profile names a board. ~ marks a rough estimate: nothing like that operator was measured. The plan is saved as
JSON with -o, replayed by `coexec run --plan`, and refused for another model, other shapes or another board (exit code 7)."""


def arguments(parser: argparse.ArgumentParser) -> None:
    shared.model(parser, optional=True)
    shared.planning(parser)
    parser.add_argument("-o", "--output", metavar="PLAN.json", help="save the plan, for `coexec run --plan`")
    parser.add_argument(
        "--explain", metavar="NODE", nargs="?", const="", action="append",
        help="why that node is where it is, what that costs, and what the runners-up would; may be given again; without a name: beside "
        "each operator what it would take on one device alone",
    )  # fmt: skip
    parser.add_argument("--diff", metavar=("A.json", "B.json"), nargs=2, help="compare two saved plans instead of making one")


def execute(options: argparse.Namespace, console: Console) -> int:
    from .. import api

    if options.diff:
        return _diff(options, console)
    if options.model is None:
        raise UsageError("the following arguments are required: MODEL", where="coexec plan", hint="see `coexec plan --help`; --explain's NODE comes "
                                                                                             "last, or write --explain= before MODEL")
    target = shared.writable(options.output)
    explained = [name for name in options.explain or () if name]
    graph = api.load(options.model)
    graph = api.bind(graph, api.default_shapes(graph, dict(options.shape)))
    known = profile(options, [options.strategy, *(["coexec"] if explained else [])], console)
    made = api.plan(graph, strategy=options.strategy, profile=known, **shared.wished(options))
    alone = {name: api.plan(graph, strategy=name, profile=known) for name in ("cpu", "gpu")} if "" in (options.explain or ()) else {}
    told = _explained(graph, made, explained, known)
    if target is not None:
        made.save(target)
    estimated = estimated_share(made)
    console.emit(
        {
            **made.to_dict(),
            "model": options.model,
            "estimated_share": estimated,
            **({"alone": {name: {p.name: p.predicted_us for p in other.partitions} for name, other in alone.items()}} if alone else {}),
            **({"explained": [e.to_dict() for e in told]} if told else {}),
        }
    )
    for explanation in told:
        _show_explanation(explanation, console)
    if not told:
        show(made, alone, console)
    _show_total(made, estimated, console)
    for name, other in alone.items():
        console.result(f"{name} alone: {milliseconds(other.predicted_ms)} ms")
    if target is not None:
        console.note(f"wrote {target}")
    return 0


def _show_total(made: Any, estimated: float, console: Console) -> None:
    if made.predicted_ms is None:
        total = "time unknown, this strategy asks no profile"
    else:
        total = f"{milliseconds(made.predicted_ms)} ms, of which {100 * estimated:.0f} % is a rough estimate (~)"
    console.result(
        f"total: {total}; {len(made.partitions)} operators, {split_count(made)} split, {len(made.chains)} chains; "
        f"planned in {milliseconds(made.planning_ms)} ms"
    )
    if made.energy_mj is not None:
        console.result(f"energy of a run: {made.energy_mj:.3g} mJ, modelled from the profile's watts")
    if made.wishes.memory_bytes is not None:
        console.result(f"memory: {made.memory_bytes / 1e6:.1f} MB, modelled, of {made.wishes.memory_bytes / 1e6:.1f} MB allowed")
    if made.gap is not None:
        console.detail("the best of all plans that were offered" if made.gap == 0 else f"at most {100 * made.gap:.2f} % from the best plan offered")


def _explained(graph: Any, made: Any, names: list[str], known: Any) -> list[Any]:
    if not names:
        return []
    from ..report.explain import explain

    return [explain(graph, made, name, known) for name in names]


def _show_explanation(told: Any, console: Console) -> None:
    """Rows of the ways; the chosen one first."""
    number = lambda us: "-" if us is None else f"{us:.1f}"  # noqa: E731
    console.result(f"{told.name} ({told.op_type}): {told.ways[0].partition}")
    console.result(f"  {told.why}")
    rows = [
        (
            way.label,
            str(way.partition),
            number(way.gpu_us),
            number(way.cpu_us),
            number(way.launch_us),
            number(way.sync_us),
            number(way.transform_us),
            number(way.alone_us) + ("~" if way.estimated else " "),
            f"{way.run_ms:.3f}",
            "" if way is told.ways[0] else f"{(way.run_ms - told.ways[0].run_ms) * 1e3:+.1f}",
        )
        for way in told.ways
    ]
    console.result(
        table(rows, ("way", "cut", "gpu us", "cpu us", "launch", "sync", "transform", "by itself ", "run ms", "us more"), "llrrrrrrrr")
    )
    console.result()


def _diff(options: argparse.Namespace, console: Console) -> int:
    """Which nodes two saved plans place differently, and how."""
    from ..partition.plan import Plan

    if options.model is not None:
        raise UsageError("--diff compares two saved plans", found=f"a model beside them, '{options.model}'", expected="the two plans alone")
    first, second = (Plan.load(path) for path in options.diff)
    changes = first.diff(second)
    told = [{"name": c.name, "first": _cut(c.first), "second": _cut(c.second)} for c in changes]
    console.emit(
        {
            "plans": [
                {"path": path, "model": p.model, "model_digest": p.model_digest, "strategy": p.strategy, "profile": p.profile,
                 "predicted_ms": p.predicted_ms, "measured_ms": p.measured_ms, "wishes": p.wishes.to_dict()}
                for path, p in zip(options.diff, (first, second))
            ],
            "same_model": first.model_digest == second.model_digest,
            "nodes": len({p.name for plan in (first, second) for p in plan.partitions}),
            "changes": told,
        }
    )  # fmt: skip
    for path, plan in zip(options.diff, (first, second)):
        console.result(f"{path}: {str(plan).splitlines()[0]}{f', for {plan.profile}' if plan.profile else ''}")
    if first.model_digest != second.model_digest:
        console.result("they are for different models, or for other input shapes")
    if changes:
        console.result(table([(c["name"][-36:], c["first"] or "-", c["second"] or "-") for c in told], ("node", "first", "second"), "lll"))
    console.result(f"{len(changes)} of {max(len(first.partitions), len(second.partitions))} nodes are placed differently")
    return 0


def _cut(partition: Any) -> str | None:
    return None if partition is None else str(partition)


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

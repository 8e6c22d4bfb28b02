"""Compares a co-executed run with the unsplit reference, of the whole model and with --per-op of every operator."""

from __future__ import annotations

import argparse

from ..errors import NumericMismatch
from . import options as shared
from .console import Console, table
from .progress import Progress
from .session import add_inputs, feeds, profile, session_options, shapes_of

HELP = "compare with the unsplit reference"
EXAMPLES = (
    "coexec validate model.onnx",
    "coexec validate model.onnx --per-op --strategy fixed:gpu=0.5",
    "coexec validate model.onnx --image cat.jpg --rtol 1e-4",
)
NOTES = """The reference is ONNX's meaning of every operator in NumPy, unsplit and unfused, which is slow. Exit code 5 where anything differs by more
than atol + rtol * peak; with --per-op the operator to blame is named."""


def arguments(parser: argparse.ArgumentParser) -> None:
    shared.model(parser)
    add_inputs(parser)
    shared.planning(parser)
    parser.add_argument("--plan", metavar="F.json", help="validate a saved plan")
    shared.tolerances(parser)
    parser.add_argument("--per-op", action="store_true", help="compare every operator too, each from its own inputs")


def execute(options: argparse.Namespace, console: Console) -> int:
    from ..api import load, validate

    graph = load(options.model)
    given = feeds(graph, options, random_by_default=True)
    known = None if options.plan else profile(options, [options.strategy], console)
    if not (options.input or options.image or options.random):
        console.note(f"made-up inputs, seed {options.seed}")
    with Progress(console, "validating") as tick:
        found = validate(
            graph,
            strategy=options.strategy,
            profile=known,
            feeds=given,
            rtol=options.rtol,
            atol=options.atol,
            per_op=options.per_op,
            options=session_options(options, shapes_of(given), tick),
            plan=options.plan,
        )
    console.emit({"model": options.model, "strategy": options.strategy, "rtol": options.rtol, "atol": options.atol, **found})
    wrong = [n for n in found["nodes"] if not n["ok"]]
    shown = found["nodes"] if console.verbose else wrong
    if shown:
        console.result(
            table(
                [
                    (
                        n["name"],
                        n["op_type"],
                        n["cut"],
                        f"{n['max_abs_error']:.3g}",
                        f"{n['max_rel_error']:.3g}",
                        "" if n["ok"] else "WRONG",
                    )
                    for n in shown
                ],
                ("node", "operator", "cut", "max abs", "max rel", ""),
                "lllrrl",
            )
        )
    verdict = console.style("ok", "green") if found["ok"] else console.style("MISMATCH", "red")
    console.result(
        f"{verdict}: largest error {found['max_abs_error']:.3g}, {found['max_rel_error']:.3g} of the peak "
        f"(allowed {options.atol:g} + {options.rtol:g} of the peak)"
        + (f"; {len(wrong)} of {len(found['nodes'])} operators are wrong" if wrong else "")
    )
    return 0 if found["ok"] else NumericMismatch.exit_code

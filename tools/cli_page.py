#!/usr/bin/env python3
"""Prints docs/command-line.md, made from the parser: python tools/cli_page.py > docs/command-line.md"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from coexec.cli.main import VERBS, make_parser, verb  # noqa: E402

HEAD = """# Command line

Made by `python tools/cli_page.py > docs/command-line.md`; do not edit. `coexec VERB --help` shows the same.

Exit codes: 0 ok, 1 failure, 2 usage, 3 no device, 4 unsupported model, 5 numeric mismatch, 6 hang or time-out, 7 profile mismatch, 130 interrupted.
"""


def page() -> str:
    """The whole page."""
    parsers = make_parser()[1]
    parts = [HEAD, "| Verb | What for |\n|---|---|\n" + "\n".join(f"| [{name}](#coexec-{name}) | {verb(name).HELP} |" for name in VERBS) + "\n"]
    for name in VERBS:
        module = verb(name)
        rows = [f"| {_names(action)} | {_meaning(action)} |" for action in parsers[name]._actions if action.dest != "help"]
        elsewhere = getattr(module, "ON_A_BOARD", ())
        parts.append(f"## coexec {name}\n\n{module.__doc__.strip()}\n\n{module.NOTES}\n\n| Argument | Meaning |\n|---|---|\n" + "\n".join(rows)
                     + "\n\nExamples:\n\n```sh\n" + "\n".join(module.EXAMPLES) + "\n```\n"
                     + ("\n<!-- needs a board: its drivers or cores -->\n```sh\n" + "\n".join(elsewhere) + "\n```\n" if elsewhere else ""))
    return "\n".join(parts)


def _names(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper() if action.nargs != 0 else "")
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"`{value}`".replace("|", "\\|")
    takes = action.nargs != 0
    return ", ".join(f"`{name}{f' {value}' if takes else ''}`" for name in action.option_strings).replace("|", "\\|")


def _meaning(action: argparse.Action) -> str:
    said = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    return said.replace("|", "\\|").strip()


if __name__ == "__main__":
    print(page(), end="")

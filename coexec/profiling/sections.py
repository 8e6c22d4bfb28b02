"""Several units' sections at once: where there are many rows, in processes beside this one, for fits are Python that one core runs at a time.

A process is sent lines of JSON, one for each section, and answers with as many, each the text of a profile that has it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ..devices.cores import usable
from ..errors import CoexecError
from ..profiles import DeviceProfile, UnitProfile, from_yaml, to_yaml
from .child import running
from .section import section_from_rows
from .table import COLUMNS, Measurement

#: Starting a process takes as long as fitting so many rows.
STARTING_ROWS = 4000


class Asked(NamedTuple):
    """A section to be made: of `cpu` or `gpu`, from these rows, with what is known of the device besides."""

    unit: str
    rows: Sequence[Measurement]
    facts: Mapping[str, float] | None = None


def sections(asked: Mapping[str, Asked]) -> dict[str, UnitProfile]:
    """Every section by its name, as `section_from_rows` makes it. Raises UsageError for an impossible row."""
    here, *beside = shared_out({name: len(one.rows) for name, one in asked.items()}, len(usable()))
    with ThreadPoolExecutor(max(1, len(beside))) as waiting:
        answers = [waiting.submit(_made_beside, {name: asked[name] for name in names}) for names in beside]
        made = {name: section_from_rows(*asked[name]) for name in here}
        for answer in answers:
            made |= answer.result()
    # What a process did not answer is made here, and says here what is wrong.
    return {name: made.get(name) or section_from_rows(*one) for name, one in asked.items()}


def shared_out(rows: Mapping[str, int], processes: int) -> list[list[str]]:
    """Which sections each process makes, this one's first, so that the last is done soon; processes that would only cost time are left out."""
    shares: list[tuple[int, list[str]]] = [(0, [])] + [(STARTING_ROWS, []) for _ in range(processes - 1)]
    for name in sorted(rows, key=lambda name: -rows[name]):
        at = min(range(len(shares)), key=lambda i: (shares[i][0] + rows[name], i))
        shares[at] = shares[at][0] + rows[name], [*shares[at][1], name]
    return [shares[0][1], *(names for _, names in shares[1:] if names)]


def _made_beside(asked: Mapping[str, Asked]) -> dict[str, UnitProfile]:
    """Those of a process of its own; none where it cannot be had or fails."""
    try:
        sent = "".join(json.dumps([one.unit, [list(map(r.__dict__.get, COLUMNS)) for r in one.rows], dict(one.facts or {})]) + "\n"
                       for one in asked.values())
        answer = subprocess.run(running(__name__), input=sent, capture_output=True, text=True, encoding="utf-8", check=True)
        return {name: from_yaml(text).cpu for name, text in zip(asked, map(json.loads, answer.stdout.splitlines()), strict=True)}
    except (OSError, ValueError, TypeError, CoexecError, subprocess.CalledProcessError):
        return {}


def main(arguments: Sequence[str]) -> None:
    """The process beside: answers what it is sent. It needs no arguments."""
    for unit, rows, facts in map(json.loads, sys.stdin):
        section = section_from_rows(unit, [Measurement(*row) for row in rows], facts)
        print(json.dumps(to_yaml(DeviceProfile("", section))))

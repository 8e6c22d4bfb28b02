"""Times of a benchmark for other programs, in the shape that hyperfine writes (seconds), and as a line of text."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

#: Columns of hyperfine's CSV. What it has and we do not measure (`user`, `system`) is left out.
COLUMNS = ("command", "mean", "stddev", "median", "min", "max")
#: From empty to full.
BLOCKS, PLAIN = " ▁▂▃▄▅▆▇█", " .:-=+*#@"


def results(times_ms: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """A row per strategy, in seconds: the CSV's columns and every time."""
    rows = []
    for name, taken in times_ms.items():
        seconds = [t / 1e3 for t in taken]
        rows.append({"command": name, "mean": statistics.fmean(seconds), "stddev": statistics.stdev(seconds) if len(seconds) > 1 else None,
                     "median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "times": seconds})
    return rows


def as_json(times_ms: Mapping[str, Sequence[float]]) -> str:
    """{"results": [...]}, as `hyperfine --export-json`."""
    return json.dumps({"results": results(times_ms)}, indent=2) + "\n"


def as_csv(times_ms: Mapping[str, Sequence[float]]) -> str:
    """A header and a line per strategy, as `hyperfine --export-csv`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(results(times_ms))
    return text.getvalue()


def spark(times_ms: Sequence[float], low: float, high: float, bins: int = 24, letters: str = BLOCKS) -> str:
    """A histogram in one line: how many times fall into each of `bins` equal steps from low to high, what lies outside in the outermost."""
    counts = [0] * bins
    for time in times_ms:
        at = int((time - low) / (high - low) * bins) if high > low else 0
        counts[min(bins - 1, max(0, at))] += 1
    most = max(counts)
    return "".join(letters[-(-count * (len(letters) - 1) // most)] if most else letters[0] for count in counts)

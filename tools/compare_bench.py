#!/usr/bin/env python3
"""Two results of bench_ops.py or bench_peers.py side by side: ratios, their geometric mean, and what changed by more than the spread.

Times of two moments are compared, so a noisy machine shows as a ratio of everything: run both on a quiet one, or trust only the spread of
ratios. Engines that did not change (the peers) tell how much the machine did: --relative-to divides by theirs.

    python tools/compare_bench.py before.json after.json
    python tools/compare_bench.py before.json after.json --relative-to "onnxruntime 1T" --fail-above 1.1
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from benching import geometric_mean  # noqa: E402


def rows(result: dict) -> dict[tuple[str, str], tuple[float, float]]:
    """(subject, engine) -> (microseconds, spread as a share of them)."""
    found = {}
    for name, engines in result.get("ops", {}).items():
        for engine, facts in engines.items():
            found[name, engine] = facts["us"], facts["spread_us"] / facts["us"]
    for name, engines in result.get("models", {}).items():
        for engine, facts in engines.items():
            found[name, engine] = facts["p50_ms"] * 1e3, facts["spread"]
    return found


def compare(before: dict, after: dict, relative_to: str | None = None) -> list[dict]:
    """A row for everything that is in both: ratio after / before, and whether it is more than both spreads."""
    old, new = rows(before), rows(after)
    found = []
    for key in old:
        if key not in new or key[1] == relative_to:
            continue
        ratio, spread = new[key][0] / old[key][0], old[key][1] + new[key][1]
        if relative_to is not None:
            reference = key[0], relative_to
            if reference not in old or reference not in new:
                continue
            ratio /= new[reference][0] / old[reference][0]
            spread += old[reference][1] + new[reference][1]
        found.append({"subject": key[0], "engine": key[1], "before_us": old[key][0], "after_us": new[key][0], "ratio": ratio,
                      "changed": abs(ratio - 1) > max(spread, 0.02)})
    return found


def read(path: str) -> dict:
    try:
        result = json.loads(Path(path).read_text())
        if not isinstance(result, dict) or not rows(result):
            raise ValueError("no results in it")
        return result
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        sys.exit(f"compare_bench: cannot read '{path}': {error}; expected what bench_ops.py or bench_peers.py --json wrote")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--relative-to", metavar="ENGINE", help="divide by what this engine's times did")
    parser.add_argument("--fail-above", type=float, metavar="R", help="exit 1 where an engine's geometric mean is above R, or a changed row is")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    first, second = read(options.before), read(options.after)
    if first.get("machine") != second.get("machine") or first.get("threads") != second.get("threads"):
        print("note: made on different machines, drivers or with other threads: ratios say little", file=sys.stderr)
    found = compare(first, second, options.relative_to)
    if not found:
        sys.exit("compare_bench: the two have nothing in common")
    print(f"{first.get('versions', {}).get('commit', '?')} -> {second.get('versions', {}).get('commit', '?')}; * changed by more than the spread")
    for row in found:
        times = f"{row['before_us']:11.1f} {row['after_us']:11.1f} us"
        print(f"{row['subject'][:70]:70} {row['engine']:16} {times}  {row['ratio']:6.3f}{' *' * row['changed']}")
    means = {engine: geometric_mean([r["ratio"] for r in found if r["engine"] == engine]) for engine in dict.fromkeys(r["engine"] for r in found)}
    for engine, mean in means.items():
        print(f"{engine}: geometric mean {mean:.3f} of {sum(r['engine'] == engine for r in found)}")
    if options.json:
        Path(options.json).write_text(json.dumps({"rows": found, "geometric_means": means}, indent=1))
    slower = options.fail_above is not None and (any(m > options.fail_above for m in means.values())
                                                or any(r["changed"] and r["ratio"] > options.fail_above for r in found))
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())

"""What features of kernels cost on a board, from its profile: the table that fits of few timings lean on (coexec/profiling/prior_costs.json).

    python tools/prior_costs.py board.yaml > coexec/profiling/prior_costs.json

Take a profile of `coexec profile --full`: only what many timings told is taken over.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from coexec.profiles import load_profile

#: A kernel with fewer timings is left out.
LEAST = 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    options = parser.parse_args()
    profile = load_profile(options.profile)
    units = [f'"board": {json.dumps(f"{profile.name}, {profile.machine.date}")}']
    for unit in ("cpu", "gpu"):
        told = {name: {k.removeprefix("us_per_").removesuffix("_us"): float(f"{v:.3g}") for k, v in fit.terms.items()}
                for name, fit in sorted(profile.unit(unit).latency.items()) if "/" in name and fit.samples >= LEAST}
        kernels = ",\n".join(f"  {json.dumps(name)}: {json.dumps(terms)}" for name, terms in told.items())
        units.append(f'"{unit}": {{\n{kernels}}}')
    print("{" + ",\n ".join(units) + "}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

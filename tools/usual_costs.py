"""What features of kernels cost on a board, from its profile: the table that fits of few timings lean on (coexec/profiling/usual_costs.yaml).

    python tools/usual_costs.py board.yaml > coexec/profiling/usual_costs.yaml

Take a profile of `coexec profile --full`: only what many timings told is taken over.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from coexec.profiles import load_profile

#: A kernel with fewer timings is left out.
LEAST = 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    options = parser.parse_args()
    profile = load_profile(options.profile)
    print("# Microseconds that features of kernels cost, by unit and kernel, as `python tools/usual_costs.py` tells them of a profile of")
    print(f"# {profile.name}. Fits of few timings lean on their proportions.")
    for unit in ("cpu", "gpu"):
        told = {name: {k.removeprefix("us_per_"): float(f"{v:.3g}") for k, v in fit.terms.items()}
                for name, fit in sorted(profile.unit(unit).latency.items()) if "/" in name and fit.samples >= LEAST}
        print(yaml.safe_dump({unit: told}, default_flow_style=None, width=150, sort_keys=False), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

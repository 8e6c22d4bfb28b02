#!/usr/bin/env bash
# From a fresh Debian or Ubuntu machine to a first co-executed model. Run it again at any time: what is done is not done twice.
#
#   bash tools/quickstart.sh [MODEL.onnx]
#
# Without a model, MobileNetV2 with made-up weights is built. PYTHON names an interpreter, COEXEC_VENV the environment
# (default .venv), COEXEC_NO_APT=1 keeps apt out of it.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
trap 'fail "quickstart stopped at line $LINENO" "run \"bash -x tools/quickstart.sh\" to see why, and report it with that output"' ERR

VENV=${COEXEC_VENV:-$ROOT/.venv}
case "$(uname -m)" in
    x86_64 | aarch64) ;;
    *) note "untested processor $(uname -m): pip may have to build packages" ;;
esac

say "1/6 Python"
make_environment "$VENV"
install_package "$VENV" "cli,image,test"
PYTHON_BIN="$VENV/bin/python"

say "2/6 OpenCL driver"
if have_opencl "$PYTHON_BIN"; then
    note "there is one"
elif apt_install pocl-opencl-icd && have_opencl "$PYTHON_BIN"; then
    note "PoCL from the distribution: an OpenCL device on the CPU's own cores"
elif [ "$(uname -m)" = x86_64 ] && "$PYTHON_BIN" -m pip install --quiet --disable-pip-version-check 'pyopencl[pocl]' && have_opencl "$PYTHON_BIN"; then
    note "PoCL from pip: an OpenCL device on the CPU's own cores"
else
    "$VENV/bin/coexec" doctor --no-self-test >&2 || true
    fail "no OpenCL driver works here" "install the board's GPU driver, or: sudo apt install pocl-opencl-icd" "then run this again"
fi

say "3/6 A model"
MODEL=${1:-$ROOT/models/mobilenet_v2.onnx}
if [ $# -gt 0 ]; then
    [ -f "$MODEL" ] || fail "there is no file $MODEL" "give an ONNX file, or nothing"
elif [ ! -f "$MODEL" ]; then
    "$PYTHON_BIN" "$ROOT/tools/make_models.py" -o "$ROOT/models" mobilenet_v2 >&2
fi
note "$MODEL"

OUT=$ROOT/build/quickstart
mkdir -p "$OUT"
say "4/6 Measuring this machine (a minute; it is kept)"
if [ -s "$OUT/profile.yaml" ]; then
    note "measured already; remove $OUT/profile.yaml to measure again"
else
    "$VENV/bin/coexec" profile --quick >&2 || fail "the machine could not be measured" "see: $VENV/bin/coexec doctor"
    "$PYTHON_BIN" - "$OUT" <<'PY'  # it is this machine's from now on, in the cache; a copy to read
import shutil
import sys
from coexec.devices.registry import find_devices
from coexec.profiles import default_profile_path
shutil.copy(default_profile_path({name: device.facts for name, device in find_devices().items()}), f"{sys.argv[1]}/profile.yaml")
PY
fi

say "5/6 Planning, and checking the result against the unsplit reference"
"$VENV/bin/coexec" plan "$MODEL" -o "$OUT/plan.json" -q >/dev/null ||
    fail "the model cannot be planned" "see the message above; coexec reads ONNX files of opset 7 and newer"
"$VENV/bin/coexec" validate "$MODEL" --plan "$OUT/plan.json" --json >"$OUT/validate.json" ||
    fail "the co-executed result differs from the reference" "find the operator: $VENV/bin/coexec validate $MODEL --per-op" "and report it"

say "6/6 CPU alone, GPU alone, both"
# An emulated GPU has one of the CPU's cores: the CPU alone gets the others, as a CPU beside a real GPU has its own.
OTHERS=$("$PYTHON_BIN" - "$OUT/profile.yaml" <<'PY'
import sys
from coexec.devices.cpu.device import usable_cores
from coexec.profiles import load_profile
gpu = load_profile(sys.argv[1]).gpu
print(max(1, usable_cores() - 1) if gpu is not None and gpu.emulated else 0)
PY
)
THREADS=()
if [ "$OTHERS" -gt 0 ]; then THREADS=(--threads "$OTHERS"); fi
"$VENV/bin/coexec" bench "$MODEL" --compare cpu,gpu,coexec --verify --iters 30 "${THREADS[@]}" --json >"$OUT/bench.json" ||
    fail "the benchmark failed" "see: $VENV/bin/coexec doctor"

trap - ERR
"$PYTHON_BIN" - "$OUT" "$MODEL" "$VENV" <<'PY'
import json
import sys
from pathlib import Path

out, model, venv = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
bench, checked = json.loads((out / "bench.json").read_text()), json.loads((out / "validate.json").read_text())
best = bench["strategies"][bench["best_single"]]["p50_ms"]
print(f"\n{Path(model).name}, median of {bench['strategies']['cpu']['count']} runs\n")
for name, words in (("cpu", "CPU alone"), ("gpu", "GPU alone"), ("coexec", "co-executed")):
    time = bench["strategies"][name]["p50_ms"]
    print(f"  {words:12} {time:9.2f} ms   {best / time:5.2f}x the best single device")
print(f"  {'ideal bound':12} {bench['ideal_ms']:9.2f} ms   {bench['ideal_speedup']:5.2f}x")
print(f"  largest error against the reference: {checked['max_rel_error']:.1e} of the output's peak")
if bench["devices"]["gpu"]["emulated"]:
    print("\n  The GPU here is emulated on one of the CPU's own cores, and the CPU has the others: this shows that it works, not how fast a GPU makes it.")
print(f"\nFiles: {out}/profile.yaml, plan.json, validate.json, bench.json")
print(f"""
Next:
  source {venv}/bin/activate
  coexec report {model} -o report.html     a page with pictures of the plan and of a run
  coexec doctor                            what this machine has
  coexec run YOUR_MODEL.onnx --random
  bash tools/test.sh                       the tests""")
PY

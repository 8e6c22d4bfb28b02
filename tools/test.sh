#!/usr/bin/env bash
# Runs the tests in an environment of their own; arguments go to pytest.
#
#   bash tools/test.sh [-k conv ...]
#
# COEXEC_VENV names the environment (default .venv), COEXEC_NO_APT=1 keeps apt out of it.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

VENV=${COEXEC_VENV:-$ROOT/.venv}
make_environment "$VENV"
install_package "$VENV" "test,image,cli"

# Ubuntu has no chromium but as a snap, which cannot open a test's files: there tests/test_page.py asks for another one.
for package in pocl-opencl-icd oclgrind mesa-opencl-icd chromium fonts-dejavu-core fish zsh; do
    if ! dpkg -s "$package" >/dev/null 2>&1 && ! apt_install "$package"; then
        note "$package is not installed and apt may not be used: tests that need it cannot run"
    fi
done
if ! have_opencl "$VENV/bin/python" && [ "$(uname -m)" = x86_64 ]; then
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check 'pyopencl[pocl]'
fi
have_opencl "$VENV/bin/python" || fail "the tests need an OpenCL device" "sudo apt install pocl-opencl-icd"

cd "$ROOT"
# A simulated GPU on a core of its own: tests must not depend on how many cores there are.
export POCL_MAX_PTHREAD_COUNT=${POCL_MAX_PTHREAD_COUNT:-1}
# Two processes where there are two cores: most of the time goes into compiling kernels.
jobs=$(nproc 2>/dev/null || echo 1)
if [ "$jobs" -gt 1 ]; then set -- -n "$((jobs > 4 ? 4 : jobs))" --dist worksteal "$@"; fi
exec "$VENV/bin/python" -m pytest "$@"

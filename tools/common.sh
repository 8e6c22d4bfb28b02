# What quickstart.sh and test.sh share; sourced, never run. Needs bash and Debian's or Ubuntu's apt for what is missing.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\n==> %s\n' "$*" >&2; }
note() { printf '    %s\n' "$*" >&2; }
fail() { printf '\nerror: %s\n' "$1" >&2; shift; for line in "$@"; do printf '  %s\n' "$line" >&2; done; exit 1; }

# The newest usable interpreter, 3.10 or later; PYTHON overrides.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.10 or later found (${PYTHON:-python3} is $(${PYTHON:-python3} --version 2>&1 | head -n 1))" \
        "Debian 12, Ubuntu 22.04 or newer: sudo apt install python3 python3-venv" \
        "or name one: PYTHON=/path/to/python3 bash $0"
}

# Prints the words to put before apt-get, or fails quietly where apt may not be used.
apt_prefix() {
    command -v apt-get >/dev/null || return 1
    [ "${COEXEC_NO_APT:-}" = "" ] || return 1
    if [ "$(id -u)" = 0 ]; then echo "env"; return 0; fi
    command -v sudo >/dev/null && sudo -n true 2>/dev/null && echo "sudo -n env" && return 0
    return 1
}

# apt_install PACKAGE...: returns 1 where apt may not be used or the package cannot be had.
apt_install() {
    local prefix
    prefix=$(apt_prefix) || return 1
    note "apt-get install $*"
    $prefix DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    $prefix DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null 2>&1 || return 1
    $prefix DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}

# make_environment FOLDER: a virtual environment there, if there is none that works.
make_environment() {
    local folder=$1 python
    if [ -x "$folder/bin/python" ] && "$folder/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        note "using $folder"
        return
    fi
    python=$(find_python)
    say "Making a virtual environment in $folder ($("$python" --version))"
    if ! "$python" -m venv --clear "$folder" 2>/dev/null; then
        local version
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        apt_install "python$version-venv" || apt_install python3-venv ||
            fail "cannot make a virtual environment: python3-venv is missing" "sudo apt install python3-venv, then run this again"
        "$python" -m venv --clear "$folder" || fail "cannot make a virtual environment in $folder" "is there space, and may you write there?"
    fi
}

# install_package FOLDER EXTRAS: the project and those extras, unless the same requirements are there already.
install_package() {
    local folder=$1 extras=$2 stamp wanted
    stamp="$folder/.coexec-$extras"
    wanted=$(cat "$ROOT/setup.cfg" "$ROOT/pyproject.toml" | sha256sum; echo "$ROOT")
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$folder/bin/python" -c 'import coexec' 2>/dev/null; then
        note "coexec[$extras] is installed already"
        return
    fi
    say "Installing coexec[$extras] (a download of a few hundred megabytes the first time)"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -e "$ROOT[$extras]" ||
        fail "pip could not install coexec" "look at its message above; behind a proxy, set https_proxy and PIP_INDEX_URL" "then run this again"
    printf '%s' "$wanted" >"$stamp"
}

# have_opencl PYTHON: true where a session could take an OpenCL device.
have_opencl() {
    "$1" - 2>/dev/null <<'PY'
import sys
from coexec.devices.opencl import list_devices
sys.exit(not any(not d["problem"] for d in list_devices()))
PY
}

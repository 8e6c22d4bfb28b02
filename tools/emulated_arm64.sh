#!/usr/bin/env bash
# Runs the smoke part of the tests on aarch64 without a board: an arm64 Debian of its own, its programs run by qemu-user.
#
#   sudo tools/emulated_arm64.sh DIRECTORY [PYTEST ARGUMENT...]
#
# DIRECTORY becomes the system's root (about 2.5 GB); a second call goes on where the first ended, and only runs the tests where all is there.
# The system, Python and PoCL come from Debian's packages; what Debian has too old (the versions in setup.cfg) comes as aarch64 wheels by this
# machine's pip (that of $PYTHON, by default python3). Needs root, debootstrap, qemu-user-static and a network. The tests take many times as long
# as on this machine, for every instruction is translated; nothing measured there says anything about a board's speed.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
root=${1:?usage: tools/emulated_arm64.sh DIRECTORY [PYTEST ARGUMENT...]}
shift
suite=bookworm
packages=python3,pocl-opencl-icd,ocl-icd-libopencl1
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(tests/test_smoke.py tests/test_layers.py tests/simulate/test_simulated_runs.py tests/runtime/test_schedule.py)

say() { printf 'emulated_arm64: %s\n' "$*" >&2; }
need() { command -v "$1" >/dev/null || { say "$1 is missing; expected it in PATH; apt install $2"; exit 1; }; }

[ "$(id -u)" = 0 ] || { say "must be root: debootstrap and chroot need it; try sudo $0 $root"; exit 2; }
need debootstrap debootstrap
need qemu-aarch64-static qemu-user-static
need dpkg-deb dpkg
mkdir -p "$root"
root=$(cd "$root" && pwd)

# The kernel hands aarch64 programs to qemu, which it opens now (F), so that it need not be inside the root.
if [ "$(uname -m)" != aarch64 ] && ! grep -qs interpreter /proc/sys/fs/binfmt_misc/qemu-aarch64; then
    say "registering qemu for aarch64 programs"
    mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s' ":qemu-aarch64:M::$magic:$mask:$(command -v qemu-aarch64-static):OCF" > /proc/sys/fs/binfmt_misc/register
fi

# Packages are unpacked here, at this machine's speed, and not configured: their scripts would run translated, and nothing below needs what they do.
if [ ! -e "$root/.unpacked" ]; then
    say "the base system and $packages"
    [ -e "$root/debootstrap/debootstrap" ] || debootstrap --arch arm64 --variant minbase --foreign --include "$packages" "$suite" "$root" >&2
    for package in "$root"/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -C "$root" --keep-directory-symlink -xf -
    done
    touch "$root/.unpacked"
fi

site=$root/opt/site
if [ ! -e "$site/.complete" ]; then
    say "wheels for aarch64"
    version=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    mapfile -t wanted < <(sed -n '/^install_requires/,/^$/p' "$here/setup.cfg" | sed -n 's/^ \+//p')
    "${PYTHON:-python3}" -m pip install --quiet --target "$site" --only-binary=:all: --implementation cp --python-version "$version" \
        --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_26_aarch64 \
        "${wanted[@]}" pytest hypothesis pillow >&2
    touch "$site/.complete"
fi

say "the tests: ${tests[*]}"
rm -rf "$root/opt/coexec"
mkdir -p "$root/opt/coexec"
tar -C "$here" --exclude=.git --exclude=./models --exclude=__pycache__ -cf - . | tar -C "$root/opt/coexec" -xf -
for place in proc sys; do  # in a container debootstrap leaves a link to this machine's own, which must be neither used nor unmounted
    [ ! -L "$root/$place" ] || rm "$root/$place"
    mkdir -p "$root/$place"
done
trap 'umount "$root/proc" "$root/sys"' EXIT
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
mountpoint -q "$root/sys" || mount -t sysfs -o ro sysfs "$root/sys"  # PoCL asks it for the memory there is
# POCL_DEVICES: no probing for other devices. qemu shows this machine's cores, not an Arm processor's name, so PoCL is told to take any aarch64.
chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/root PYTHONPATH=/opt/site:/opt/coexec COEXEC_CACHE_DIR=/tmp/coexec \
    POCL_DEVICES=basic POCL_MAX_PTHREAD_COUNT=1 sh -c '
        cd /opt/coexec
        uname -m
        python3 -c "import platform, numpy, coexec; print(platform.platform(), \"Python\", platform.python_version(), \"NumPy\", numpy.__version__)"
        python3 -m coexec doctor || true
        python3 -c "import onnx; from tests.test_smoke import tiny_model; onnx.save(tiny_model(), \"/tmp/tiny.onnx\")"
        for strategy in cpu gpu fixed:gpu=0.5; do python3 -m coexec validate /tmp/tiny.onnx --strategy "$strategy"; done
        exec python3 -m pytest -q -p no:cacheprovider "$@"' sh "${tests[@]}"

#!/usr/bin/env bash
# A qemu-user with plugins, which Debian's has not, and the plugin that counts instructions: ROOT/counting/.
# Usage: bash bench/arm_counter.sh [ROOT]   (default as bench/arm_setup.py's). About five minutes; needs gcc, ninja,
# meson and pkg-config. Debian's sources and development packages are unpacked, nothing is installed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=${1:-${ONNXSLIM_ARM_ROOT:-$HOME/.cache/onnxslim-yolo-arm}}
work=$root/counting
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/debs" "$work/dev"
cd "$work"
touch apt/status
printf 'deb%s [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main\n' \
  '' -src > apt/sources.list
apt=(apt-get -q -o "Dir::State=$work/apt" -o "Dir::State::lists=$work/apt/lists" -o "Dir::State::status=$work/apt/status"
  -o "Dir::Cache=$work/apt/cache" -o "Dir::Etc::sourcelist=$work/apt/sources.list" -o Dir::Etc::sourceparts=-
  -o APT::Sandbox::User=)
"${apt[@]}" update
"${apt[@]}" --download-only source qemu
(cd debs && "${apt[@]}" download libglib2.0-dev libglib2.0-0 libpcre2-dev libpcre2-8-0 libffi-dev libmount-dev \
  libselinux1-dev zlib1g-dev libblkid-dev libsepol-dev && for deb in *.deb; do dpkg-deb -x "$deb" ../dev; done)
tar xf qemu_*.orig.tar.xz
cd qemu-*/
library=$work/dev/usr/lib/$(gcc -print-multiarch)
export PKG_CONFIG_PATH=$library/pkgconfig PKG_CONFIG_SYSROOT_DIR=$work/dev
./configure --target-list=aarch64-linux-user --enable-plugins --disable-system --disable-tools --disable-docs \
  --disable-install-blobs --disable-werror --extra-ldflags="-L$library"
ninja -C build qemu-aarch64
cp build/qemu-aarch64 "$work/"
gcc -O2 -shared -fPIC -Iinclude/qemu $(pkg-config --cflags glib-2.0) -o "$work/libarm_counter.so" "$here/arm_counter.c"
echo "$work/qemu-aarch64 and $work/libarm_counter.so"

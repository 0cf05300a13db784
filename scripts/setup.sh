#!/usr/bin/env bash
# Installs what building and running needs, and nothing that is there already:
# packages of the distribution, a Rust toolchain, ONNX Runtime's library in lib/.
# For Debian 12 and 13, Ubuntu 22.04 and 24.04; a second run only looks and ends.
#
#   setup.sh          packages, Rust, ONNX Runtime for the processor (lib/)
#   setup.sh --gpu    that, and ONNX Runtime for NVIDIA devices with CUDA and cuDNN (lib/gpu/, about 2 GB;
#                     CUDA 13 and cuDNN 9 are not fetched where the system has them). The driver is yours to install.
#   setup.sh --gpu --libraries-only    nothing but those libraries: to be carried to another machine
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh

RUST_NEEDED=1.95
# FFmpeg 4.3 to 7: Ubuntu 22.04 has 4.4, Debian 13 has 7.1.
AVCODEC_OLDEST=58.91
AVCODEC_NEWEST=61.999
ORT_PACKAGE=onnxruntime-openvino
ORT_VERSION=1.24.1
ORT_SHA256=d617fac2f59a6ab5ea59a788c3e1592240a129642519aaeaa774761dfe35150e
# Of the wheel, what the CPU and its OpenVINO provider load. Left out: Python's own
# module, the GPU, NPU, AUTO and HETERO plugins, the C API, and second copies of one library.
ORT_FILES=(
  libonnxruntime.so."$ORT_VERSION"
  libonnxruntime_providers_shared.so
  libonnxruntime_providers_openvino.so
  libopenvino.so.2541
  libopenvino_onnx_frontend.so.2541
  libopenvino_intel_cpu_plugin.so
  libtbb.so.12
)

# For NVIDIA devices: wheel, version, SHA-256, tag of its platform, and what is taken out of it.
GPU_ORT_VERSION=1.31.1
GPU_ORT="onnxruntime-gpu $GPU_ORT_VERSION 05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7 manylinux_2_28_x86_64"
GPU_CUDA=(
  "nvidia-cuda-runtime 13.5.37 df2b79a8852f10d1fef8c848489c49eebb5754051bf870202a862831412b179d manylinux2014_x86_64"
  "nvidia-cublas 13.10.0.20 dcc6d63884c53d07e267ce7e6feac17b2538cebaafec5db865736c3e28e4dc84 manylinux1_x86_64"
  "nvidia-cudnn-cu13 9.28.0.42 7358353c75bb121a58e5f7712fe6d588883dc1df8ba00f428237e44e97543c4d manylinux_2_27_x86_64"
  "nvidia-cufft 12.5.0.14 b8be26837a5abad2b5b74f3e92dd29f622a42934b355be0961a48712cbba23ad manylinux2014_x86_64"
  "nvidia-curand 10.4.5.25 22bb226a857e5888fe6b54ae465fc4371296bcff13a35f79e19691bcf454f529 manylinux_2_27_x86_64"
  "nvidia-cuda-nvrtc 13.5.37 86b4d68058807988b7d9af5b44917a0601e9c337f35ccd657bfb3c759ff8d8bc manylinux2010_x86_64"
  "nvidia-nvjitlink 13.5.37 280d7cb9649704145f074b8dbde500de04ce02d0872e066e20a83c17bcaa93eb manylinux2010_x86_64"
)

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "this needs root and there is no sudo; as root, run: $*"
  fi
}

apt_updated=
apt_update() {
  if [ -z "$apt_updated" ]; then as_root apt-get update -qq; apt_updated=1; fi
}

apt_install() {
  command -v apt-get >/dev/null || die "no apt-get here; install by hand what stands for: $*"
  say "installing $*"
  apt_update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The first python3 that has pip: one on PATH may be bare while the distribution's is not.
python_with_pip() {
  local python
  for python in python3 /usr/bin/python3; do
    if "$python" -m pip --version >/dev/null 2>&1; then echo "$python"; return; fi
  done
  return 1
}

libclang_found() {
  # Not libclang-cpp, which is another library.
  local pattern
  for pattern in '/usr/lib/llvm-*/lib/libclang.so*' '/usr/lib/*/libclang.so*' '/usr/lib/*/libclang-[0-9]*.so*'; do
    if compgen -G "$pattern" >/dev/null; then return; fi
  done
  return 1
}

packages() {
  local missing=()
  command -v pkg-config >/dev/null || missing+=(pkg-config)
  command -v cc >/dev/null || missing+=(build-essential)
  command -v clang >/dev/null || missing+=(clang)
  libclang_found || missing+=(libclang-dev)
  command -v ffmpeg >/dev/null || missing+=(ffmpeg)
  command -v python3 >/dev/null || missing+=(python3)
  # The test of power cuts follows the program's system calls; others set a clock, and fill a quota.
  command -v strace >/dev/null || missing+=(strace)
  command -v faketime >/dev/null || missing+=(faketime)
  command -v mkfs.btrfs >/dev/null || missing+=(btrfs-progs)
  local library
  for library in avcodec avformat avfilter avutil swscale swresample; do
    pkg-config --exists "lib$library" 2>/dev/null || missing+=("lib$library-dev")
  done
  if ! lib_is_there && ! python_with_pip >/dev/null; then missing+=(python3-pip); fi
  if [ ${#missing[@]} -gt 0 ]; then apt_install "${missing[@]}" ca-certificates; fi
}

# Said before anything is built, since the compiler's words for it are many and unclear.
ffmpeg_fits() {
  local version
  version=$(pkg-config --modversion libavcodec 2>/dev/null) || die "pkg-config finds no libavcodec; install libavcodec-dev, or name the folder of your FFmpeg's .pc files in PKG_CONFIG_PATH"
  pkg-config --atleast-version="$AVCODEC_OLDEST" libavcodec && pkg-config --max-version="$AVCODEC_NEWEST" libavcodec && return
  die "FFmpeg 4.3 to 7.1 is needed (libavcodec $AVCODEC_OLDEST to 61), and here is libavcodec $version.
  Use Debian 12 or 13 or Ubuntu 22.04 or 24.04, or build such an FFmpeg yourself (with --enable-shared and
  --enable-gpl --enable-libx264 --enable-libx265) and name its lib/pkgconfig folder in PKG_CONFIG_PATH."
}

rust_is_new_enough() {
  local version
  version=$(cargo --version 2>/dev/null | awk '{print $2}') || return 1
  [ -n "$version" ] && [ "$(printf '%s\n' "$RUST_NEEDED" "$version" | sort -V | head -n 1)" = "$RUST_NEEDED" ]
}

rust() {
  rust_is_new_enough && return
  if ! command -v rustup >/dev/null && command -v apt-get >/dev/null; then
    apt_update
    if apt-cache show rustup >/dev/null 2>&1; then apt_install rustup; fi
  fi
  if command -v rustup >/dev/null; then
    say "fetching the stable Rust toolchain"
    if rustup default >/dev/null 2>&1; then rustup update stable; else rustup default stable; fi
    hash -r
    rust_is_new_enough && return
    die "Rust $RUST_NEEDED is needed and rustup's default is older; run: rustup default stable"
  fi
  # shellcheck disable=SC2016
  die "Rust $RUST_NEEDED or newer is needed and this distribution has no rustup; run this line, then the same command again:
  python3 -c 'import urllib.request as u; print(u.urlopen(\"https://sh.rustup.rs\").read().decode())' | sh -s -- -y"
}

lib_is_there() { [ "$(cat lib/.wheel-sha256 2>/dev/null)" = "$ORT_SHA256" ] && [ -e lib/libonnxruntime.so ]; }

library() {
  lib_is_there && return
  if [ "$(uname -m)" != x86_64 ]; then
    say "no ready-made ONNX Runtime is known for $(uname -m): put libonnxruntime.so ($ORT_VERSION) into lib/ yourself"
    return
  fi
  local python scratch wheel
  python=$(python_with_pip) || die "no python3 with pip; install python3-pip"
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/upscaled-setup.XXXXXX")
  # shellcheck disable=SC2064
  trap "rm -rf '$scratch'" EXIT
  say "fetching ONNX Runtime $ORT_VERSION (85 MB)"
  printf '%s==%s --hash=sha256:%s\n' "$ORT_PACKAGE" "$ORT_VERSION" "$ORT_SHA256" >"$scratch/wanted"
  # One fixed tag, whatever Python is here: only the libraries inside are used.
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.12 --implementation cp --abi cp312 --platform manylinux_2_28_x86_64 \
    --dest "$scratch" --requirement "$scratch/wanted"
  wheel=$(echo "$scratch"/*.whl)
  echo "$ORT_SHA256  $wheel" | sha256sum --check --quiet || die "the downloaded $wheel is not the pinned one"
  mkdir -p lib
  rm -f lib/.wheel-sha256
  "$python" - "$wheel" lib "${ORT_FILES[@]}" <<'PYTHON'
import os, shutil, sys, zipfile

wheel, target, *names = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in names:
        part = os.path.join(target, f".{name}.part")
        with archive.open(f"onnxruntime/capi/{name}") as source, open(part, "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        os.chmod(part, 0o755)
        os.replace(part, os.path.join(target, name))
    licences = [n for n in archive.namelist() if os.path.basename(n) in ("LICENSE", "ThirdPartyNotices.txt")]
    for name in licences:
        with open(os.path.join(target, "onnxruntime-" + os.path.basename(name)), "wb") as copy:
            copy.write(archive.read(name))
PYTHON
  ln -sf "libonnxruntime.so.$ORT_VERSION" lib/libonnxruntime.so
  ln -sf "libonnxruntime.so.$ORT_VERSION" lib/libonnxruntime.so.1
  sync lib
  echo "$ORT_SHA256" >lib/.wheel-sha256
  say "ONNX Runtime is in lib/"
}

# Fetches a wheel of exactly that hash: name, version, hash, platform, folder.
fetch_wheel() {
  local python
  python=$(python_with_pip) || die "no python3 with pip; install python3-pip"
  printf '%s==%s --hash=sha256:%s\n' "$1" "$2" "$3" >"$5/wanted"
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --require-hashes --python-version 3.12 \
    --implementation cp --abi cp312 --abi none --platform "$4" --dest "$5" --requirement "$5/wanted"
  echo "$3  $(echo "$5"/*.whl)" | sha256sum --check --quiet || die "the downloaded $1 is not the pinned one"
}

# Takes the shared libraries (and licences) out of a wheel: wheel, folder.
unpack_wheel() {
  "$(python_with_pip)" - "$1" "$2" <<'PYTHON'
import os, re, shutil, sys, zipfile

wheel, target = sys.argv[1:]
package = os.path.basename(wheel).split("-")[0]
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        file = os.path.basename(name)
        licence = re.match(r"(?i)(licen[sc]e|thirdpartynotices)", file)
        # Python's own modules stay behind.
        library = re.match(r"lib.*\.so(\.|$)", file)
        if not (licence or library):
            continue
        path = os.path.join(target, f"{package}-{file}" if licence else file)
        with archive.open(name) as source, open(path + ".part", "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        os.chmod(path + ".part", 0o644 if licence else 0o755)
        os.replace(path + ".part", path)
PYTHON
}

system_has_cuda() {
  local known
  known=$(ldconfig -p 2>/dev/null) || return 1
  for library in libcudart.so.13 libcublas.so.13 libcudnn.so.9 libcufft.so.12 libcurand.so.10 libnvrtc.so.13; do
    grep -q "$library " <<<"$known" || return 1
  done
}

gpu_libraries() {
  [ "$(uname -m)" = x86_64 ] || die "no ready-made ONNX Runtime for NVIDIA devices is known for $(uname -m)"
  local wheels=("$GPU_ORT") wheel marker scratch
  if system_has_cuda; then say "CUDA 13 and cuDNN 9 are installed"; else wheels+=("${GPU_CUDA[@]}"); fi
  marker=$(printf '%s\n' "${wheels[@]}" | sha256sum | cut -d ' ' -f 1)
  if [ "$(cat lib/gpu/.wheels-sha256 2>/dev/null)" = "$marker" ] && [ -e lib/gpu/libonnxruntime.so ]; then return; fi
  rm -f lib/gpu/.wheels-sha256
  mkdir -p lib/gpu
  for wheel in "${wheels[@]}"; do
    # shellcheck disable=SC2086
    set -- $wheel
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/upscaled-setup.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$scratch'" EXIT
    say "fetching $1 $2"
    fetch_wheel "$1" "$2" "$3" "$4" "$scratch"
    unpack_wheel "$(echo "$scratch"/*.whl)" lib/gpu
    rm -rf "$scratch"
  done
  ln -sf "libonnxruntime.so.$GPU_ORT_VERSION" lib/gpu/libonnxruntime.so
  ln -sf "libonnxruntime.so.$GPU_ORT_VERSION" lib/gpu/libonnxruntime.so.1
  [ -e "lib/gpu/libonnxruntime.so.$GPU_ORT_VERSION" ] || die "the wheel of $GPU_ORT_VERSION holds no libonnxruntime.so"
  sync lib/gpu
  echo "$marker" >lib/gpu/.wheels-sha256
  say "ONNX Runtime for NVIDIA devices is in lib/gpu/; it is taken where the driver is there"
}

gpu='' only=''
for argument in "$@"; do
  case $argument in
    --gpu) gpu=1 ;;
    --libraries-only) only=1 ;;
    *) die "unknown argument $argument; setup.sh [--gpu] [--libraries-only]" ;;
  esac
done

if [ -z "$only" ]; then
  packages
  ffmpeg_fits
  rust
fi
library
if [ -n "$gpu" ]; then gpu_libraries; fi

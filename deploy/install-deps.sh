#!/usr/bin/env bash
# Installs what building and testing Tessera needs on Debian 12 or Ubuntu 24.04. Idempotent: what is there
# already is left alone, and a second run changes nothing.
#
#   deploy/install-deps.sh            compilers and libraries of the CPU build, and of the tests
#   deploy/install-deps.sh --build    only what the build needs
#   deploy/install-deps.sh --cuda     also the CUDA 13 compiler and libraries
#   deploy/install-deps.sh --browser  also the browser in which the console is tested
set -euo pipefail

readonly RUST_MINOR_MIN=87                       # of Rust 1.x
readonly PROMETHEUS_ROOT="${TESSERA_PROMETHEUS_ROOT:-/opt/tessera/prometheus}"
readonly CUDA_ROOT="${TESSERA_CUDA_ROOT:-/opt/tessera/cuda}"
# NVIDIA's wheels, used where no nvcc is installed.
readonly CUDA_WHEELS=(
  nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
  nvidia-cublas==13.1.0.3 nvidia-nccl-cu13==2.30.7
)

readonly BUILD_PACKAGES=(
  g++ cmake ninja-build ccache pkg-config git ca-certificates curl
  protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libgrpc++-dev libabsl-dev libssl-dev
  libsodium-dev libboost-dev libboost-system-dev nlohmann-json3-dev libcli11-dev libspdlog-dev
  libyaml-cpp-dev prometheus-cpp-dev libgloo-dev libdnnl-dev libgtest-dev libgmock-dev
  libbenchmark-dev
)
readonly TEST_PACKAGES=(
  python3 python3-grpcio python3-protobuf python3-yaml
  clang-14 clang-format-14 clang-tidy-14 libclang-rt-14-dev
)
readonly BROWSER_PACKAGES=(chromium chromium-driver)

usage() { sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'; }

with_cuda=0
with_tests=1
with_browser=0
for argument in "$@"; do
  case "$argument" in
    --cuda) with_cuda=1 ;;
    --build) with_tests=0 ;;
    --browser) with_browser=1 ;;
    -h|--help) usage; exit 0 ;;
    *) echo "install-deps.sh: unknown argument $argument (try --help)" >&2; exit 2 ;;
  esac
done

if ! command -v apt-get >/dev/null; then
  echo "install-deps.sh: needs apt-get (Debian 12 or Ubuntu 24.04); on other systems install:" >&2
  printf '  %s\n' "${BUILD_PACKAGES[@]}" >&2
  exit 1
fi
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

is_installed() {
  dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q 'install ok installed'
}

updated=0
install_packages() {
  local missing=() package
  for package in "$@"; do is_installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  echo "installing: ${missing[*]}"
  if [ "$updated" = 0 ]; then as_root apt-get update -qq; updated=1; fi
  local log
  log=$(mktemp)
  if ! as_root env DEBIAN_FRONTEND=noninteractive \
       apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

rust_minor() {  # of the cargo on PATH, 0 if there is none
  local version
  version=$(cargo --version 2>/dev/null | sed -nE 's/^cargo 1\.([0-9]+).*/\1/p')
  echo "${version:-0}"
}

# Rust: whatever cargo is on PATH if new enough, else the newest package the distribution has.
install_rust() {
  [ "$(rust_minor)" -ge "$RUST_MINOR_MIN" ] && return 0
  if [ "$updated" = 0 ]; then as_root apt-get update -qq; updated=1; fi
  local version
  if apt-cache show cargo-web 2>/dev/null | grep -q '^Version: 1\.\(8[7-9]\|9[0-9]\|[1-9][0-9][0-9]\)'; then
    install_packages rustc-web cargo-web
  else
    version=$(apt-cache search --names-only '^cargo-1\.[0-9]+$' | sed -nE 's/^cargo-1\.([0-9]+) .*/\1/p' |
              sort -n | tail -n 1)
    if [ -n "$version" ] && [ "$version" -ge "$RUST_MINOR_MIN" ]; then
      install_packages "rustc-1.$version" "cargo-1.$version"
      as_root ln -sf "/usr/bin/cargo-1.$version" /usr/local/bin/cargo
      as_root ln -sf "/usr/bin/rustc-1.$version" /usr/local/bin/rustc
    fi
  fi
  hash -r
  if [ "$(rust_minor)" -lt "$RUST_MINOR_MIN" ]; then
    echo "install-deps.sh: needs Rust 1.$RUST_MINOR_MIN or newer, found $(cargo --version 2>&1)" >&2
    return 1
  fi
}

# Prometheus and promtool for the tests of rules and dashboards: unpacked, not installed, for the package would start
# a server that nobody asked for.
install_prometheus() {
  if command -v prometheus >/dev/null && command -v promtool >/dev/null; then return 0; fi
  if [ -x "$PROMETHEUS_ROOT/usr/bin/promtool" ]; then return 0; fi
  echo "unpacking: prometheus to $PROMETHEUS_ROOT"
  if [ "$updated" = 0 ]; then as_root apt-get update -qq; updated=1; fi
  local folder
  folder=$(mktemp -d)
  if ! (cd "$folder" && apt-get -o APT::Sandbox::User=root download -qq prometheus &&
        as_root mkdir -p "$PROMETHEUS_ROOT" && as_root dpkg -x prometheus_*.deb "$PROMETHEUS_ROOT"); then
    echo "install-deps.sh: no Prometheus here; the tests of rules and dashboards will skip what needs it" >&2
  fi
  rm -rf "$folder"
}

# Where there is no package (Ubuntu has a snap in its place) the console's test skips.
install_browser() {
  if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then return 0; fi
  install_packages "${BROWSER_PACKAGES[@]}" ||
    echo "install-deps.sh: no Chromium here; the test of the console will skip" >&2
}

install_cuda() {
  if command -v nvcc >/dev/null; then
    echo "CUDA: using $(command -v nvcc)"
    return 0
  fi
  if [ -e "$CUDA_ROOT/.complete" ]; then return 0; fi
  echo "installing: CUDA 13 compiler and libraries to $CUDA_ROOT"
  install_packages python3-pip
  as_root mkdir -p "$CUDA_ROOT"
  as_root python3 -m pip install --quiet --no-deps --target "$CUDA_ROOT" "${CUDA_WHEELS[@]}"
  as_root touch "$CUDA_ROOT/.complete"
}

install_packages "${BUILD_PACKAGES[@]}"
install_rust
if [ "$with_tests" = 1 ]; then install_packages "${TEST_PACKAGES[@]}" && install_prometheus; fi
if [ "$with_cuda" = 1 ]; then install_cuda; fi
if [ "$with_browser" = 1 ]; then install_browser; fi
echo "dependencies are in place"

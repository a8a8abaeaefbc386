# Sourced by the other scripts: a virtual environment in .venv, and what the system must have for it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# pip is the system's: .venv has none, and may already stand first in PATH.
system_python=$(PATH="${PATH//"$PWD/.venv/bin:"/}" command -v python3)
python=.venv/bin/python
export PATH="$PWD/.venv/bin:$PATH"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Installs Debian packages that are missing; fails where it may not.
apt_install() {
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}; install them, or run as root on Debian" >&2
    return 1
  fi
  echo "installing ${missing[*]}" >&2
  apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Debian keeps ensurepip and Python's headers in packages of their own: the environment is made without
# the first, and the second are installed where they are missing.
make_environment() {
  "$python" -c '' 2>/dev/null || "$system_python" -m venv --clear --without-pip .venv
  local header
  header=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"] + "/Python.h")')
  [ -e "$header" ] || apt_install python3-dev
}

pip_for_environment() {
  "$system_python" -m pip --python "$python" "$@"
}

# pip's command ("wheel", "install") on this project, compiled in a build folder that the C++ tests use as
# well: what both need is compiled once. So the tools stand in .venv, not in an environment of pip's own.
pip_build() {
  local command=$1 folder=$2
  shift 2
  pip_for_environment install --quiet cmake ninja pybind11 scikit-build-core
  CMAKE_GENERATOR=Ninja pip_for_environment "$command" --quiet --no-deps --no-build-isolation \
    --config-settings=build-dir="$folder" "$@" .
}

# Installs Quire with the extras named ("test", "lint"). Its wheel is built when a source has changed.
install_quire() {
  local stamp=.venv/quire-installed wheels=build/wheel
  local sources=(CMakeLists.txt pyproject.toml README.md LICENSE bindings cpp python)
  if [ ! -e "$stamp" ] || ! ls "$wheels"/*.whl >/dev/null 2>&1 ||
    [ -n "$(find "${sources[@]}" -name __pycache__ -prune -o -newer "$stamp" -print -quit)" ]; then
    echo "building Quire" >&2
    rm -rf "$wheels" "$stamp"
    touch "$stamp.begun"
    pip_build wheel build/release --wheel-dir "$wheels"
    pip_for_environment install --quiet --force-reinstall --no-deps "$wheels"/*.whl
    mv "$stamp.begun" "$stamp"
  fi
  pip_for_environment install --quiet "$(ls "$wheels"/*.whl)${1:+[$1]}"
}

# Configures, builds and runs the C++ tests of a preset; further arguments go to ctest.
cpp_tests() {
  local preset=$1
  shift
  pip_for_environment install --quiet cmake ninja
  apt_install googletest libeigen3-dev || echo "CMake fetches GoogleTest and Eigen" >&2
  cmake --preset "$preset" -Wno-deprecated >/dev/null
  cmake --build --preset "$preset" --parallel "$(nproc)"
  ctest --preset "$preset" --parallel "$(nproc)" "$@"
}

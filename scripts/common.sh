# Sourced by the other scripts: a virtual environment in .venv, and what the system must have for it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The Python that .venv is made of, though .venv may already stand first in PATH.
system_python=$(PATH="${PATH//"$PWD/.venv/bin:"/}" command -v python3 || true)
python=.venv/bin/python
export PATH="$PWD/.venv/bin:$PATH"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Python, pip and a compiler have to be there: all that lack are named at once, before anything is made.
require_tools() {
  local missing=0
  if ! "${system_python:-false}" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "missing: Python 3.10 or later, as python3 (Debian: python3)" >&2 && missing=1
  elif ! "$system_python" -m pip --version >/dev/null 2>&1; then
    echo "missing: pip of $system_python (Debian: python3-pip)" >&2 && missing=1
  fi
  if ! command -v ${CXX:-} c++ g++ clang++ >/dev/null; then
    echo "missing: a C++20 compiler (Debian: g++)" >&2 && missing=1
  fi
  return $missing
}

# Installs Debian packages that are missing, after it has said which, and what each is for; fails where
# it may not. Arguments: a package, what it is for, the next package, ...
apt_install() {
  local missing=()
  while [ $# -gt 0 ]; do
    if ! dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; then
      echo "needed from Debian: $1, $2" >&2
      missing+=("$1")
    fi
    shift 2
  done
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "only root on Debian can install this: apt-get install ${missing[*]}" >&2
    return 1
  fi
  echo "installing, as root: apt-get install ${missing[*]}" >&2
  apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Debian keeps ensurepip and Python's headers in packages of their own: the environment is made without
# the first, and gets its pip from the system's, which may be too old to serve another environment and
# may not install into its own. The second are installed where they are missing.
make_environment() {
  require_tools
  "$python" -c '' 2>/dev/null || "$system_python" -m venv --clear --without-pip .venv
  local paths site include
  paths=$("$python" -c 'import sysconfig as s; print(*map(s.get_path, ["purelib", "include"]), sep="\n")')
  { read -r site && read -r include; } <<<"$paths"
  "$python" -m pip --version >/dev/null 2>&1 ||
    "$system_python" -m pip install --quiet --target "$site" pip
  [ -e "$include/Python.h" ] ||
    apt_install python3-dev "Python's headers, which its module is compiled with"
}

# pip install into .venv. It says what is fetched and installed, and nothing where all is there already.
pip_install() {
  "$python" -m pip install "$@" | sed -nu '/^Downloading /p; /^Installing /p'
}

# Runs a build and shows how far it is, a line for each step, or on a terminal one line that changes. All
# that the build says goes to the log, which is shown where it fails.
with_progress() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  "$@" 2>&1 | tee "$log" | show_steps || { cat "$log" >&2 && return 1; }
}

# Of what ninja prints the steps, "[3/85] Building ...".
show_steps() {
  local line before='' after=$'\n'
  if [ -t 2 ]; then before=$'\r\e[K' after=''; fi
  while IFS= read -r line; do
    line=${line#"${line%%[![:space:]]*}"}
    if [[ $line =~ ^\[[0-9]+/[0-9]+\] ]]; then printf '%s%.100s%s' "$before" "$line" "$after" >&2; fi
  done
  printf '%s' "$before" >&2
}

# pip's command ("wheel", "install") on this project, compiled in a build folder that the C++ tests use as
# well: what both need is compiled once. So the tools stand in .venv, not in an environment of pip's own.
pip_build() {
  local command=$1 folder=$2
  shift 2
  pip_install cmake ninja pybind11 scikit-build-core
  CMAKE_GENERATOR=Ninja with_progress "$folder.log" "$python" -m pip "$command" --verbose --no-deps \
    --no-build-isolation --config-settings=build-dir="$folder" "$@" .
}

# Installs Quire with the extras named ("test", "lint", "docs"). Its wheel is built when a source has changed.
install_quire() {
  local stamp=.venv/quire-installed wheels=build/wheel
  local sources=(CMakeLists.txt pyproject.toml README.md LICENSE THIRD_PARTY_NOTICES.md bindings cpp python)
  if [ ! -e "$stamp" ] || ! ls "$wheels"/*.whl >/dev/null 2>&1 ||
    [ -n "$(find "${sources[@]}" -name __pycache__ -prune -o -newer "$stamp" -print -quit)" ]; then
    echo "building Quire: the first time takes minutes" >&2
    rm -rf "$wheels" "$stamp"
    touch "$stamp.begun"
    pip_build wheel build/release --wheel-dir "$wheels"
    pip_install --quiet --force-reinstall --no-deps "$wheels"/*.whl
    mv "$stamp.begun" "$stamp"
  fi
  pip_install "$(ls "$wheels"/*.whl)${1:+[$1]}"
}

# Configures, builds and runs the C++ tests of a preset; further arguments go to ctest.
cpp_tests() {
  local preset=$1
  shift
  pip_install cmake ninja
  apt_install googletest "the framework of the C++ tests" libeigen3-dev "the matrices that they compare with" ||
    echo "CMake fetches GoogleTest and Eigen" >&2
  cmake --preset "$preset" -Wno-deprecated >/dev/null
  cmake --build --preset "$preset" --parallel "$(nproc)"
  ctest --preset "$preset" --parallel "$(nproc)" "$@"
}

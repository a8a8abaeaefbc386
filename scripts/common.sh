# Sourced by the other scripts: a virtual environment in .venv, and what the system must have for it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
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
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Debian keeps ensurepip and Python's headers in packages of their own: the environment is made without
# the first, and the second are installed where they are missing.
make_environment() {
  [ -x "$python" ] || python3 -m venv --without-pip .venv
  local header
  header=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["include"] + "/Python.h")')
  [ -e "$header" ] || apt_install python3-dev
}

# The system's pip, working on .venv.
pip_install() {
  python3 -m pip --python "$python" install --quiet "$@"
}

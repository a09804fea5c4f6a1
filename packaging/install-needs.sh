# shellcheck shell=bash
# What building and trying cove needs of a machine, installed where it is missing: sourced by
# packaging/quickstart.sh and tests/run.sh, so that both install the same things in the same way.
#
# It installs packages of the system (apt-get or dnf, as root or through sudo), for the tests Playwright and
# Puppeteer into the folder of builds, and nothing that is already there. Rust is only checked: how to install it is the
# user's choice, and is printed.

say() {
  printf '==> %s\n' "$*"
}

give_up() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    say "needs root: sudo $*"
    sudo "$@"
  else
    give_up "this needs root, and there is no sudo. Run as root: $*"
  fi
}

# Whether this system is NAME or one of its children, by /etc/os-release.
system_is() {
  local ids
  # shellcheck source=/dev/null
  ids=$(. /etc/os-release 2>/dev/null && printf '%s %s' "${ID:-}" "${ID_LIKE:-}") || return 1
  case " $ids " in
    *" $1 "*) return 0 ;;
    *) return 1 ;;
  esac
}

apt_lists_are_fresh=no

# install_packages "apt's names" "dnf's names"
install_packages() {
  local packages
  if command -v apt-get >/dev/null; then
    read -r -a packages <<<"$1"
    if [ "$apt_lists_are_fresh" = no ]; then
      as_root apt-get update -q
      apt_lists_are_fresh=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"
  elif command -v dnf >/dev/null; then
    read -r -a packages <<<"$2"
    as_root dnf install -q -y "${packages[@]}"
  else
    give_up "neither apt-get nor dnf is here. Install these yourself, then run this again: $1"
  fi
}

need_compiler() {
  if command -v cc >/dev/null; then
    return 0
  fi
  say "installing a C compiler, which Rust links with"
  install_packages "gcc libc6-dev" "gcc glibc-devel"
}

# The tests kill the daemon at its system calls with it; without it they say so and pass.
need_strace() {
  if ! command -v strace >/dev/null; then
    say "installing strace"
    install_packages "strace" "strace"
  fi
}

# The tests hold the metrics and the alerts of the package against it.
need_promtool() {
  if ! command -v promtool >/dev/null; then
    say "installing promtool, which comes with Prometheus"
    install_packages "prometheus" "golang-github-prometheus"
    command -v promtool >/dev/null || give_up "Prometheus was installed and promtool is still not found in PATH"
  fi
}

# The tests put the package's sample site before the daemon. Debian's package starts a server on port 80, which is
# not wanted: what starts services is told not to while it is installed.
need_nginx() {
  local told=/usr/sbin/policy-rc.d
  if command -v nginx >/dev/null && command -v openssl >/dev/null; then
    return 0
  fi
  say "installing nginx and openssl"
  if command -v apt-get >/dev/null && [ ! -e "$told" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$told" >/dev/null
    as_root chmod 755 "$told"
    install_packages "nginx-light openssl" "nginx openssl" || { as_root rm -f "$told"; return 1; }
    as_root rm -f "$told"
  else
    install_packages "nginx-light openssl" "nginx openssl"
  fi
  command -v nginx >/dev/null || give_up "nginx was installed and is still not found in PATH"
}

# A link into a snap, or the script that Ubuntu installs in a browser's place: a snap cannot use the
# daemon's folders.
is_snap() {
  local real
  real=$(readlink -f "$1") || return 0
  case "$real" in
    /snap/* | */usr/bin/snap) return 0 ;;
  esac
  [ "$(head -c 2 "$real" | tr -d '\0')" = '#!' ] && head -c 4096 "$real" | grep -q '/snap/bin/'
}

# Prints the browser that will be used; fails where there is none.
find_browser() {
  local name path
  for name in chromium google-chrome-stable google-chrome chromium-browser /opt/google/chrome/chrome; do
    if path=$(command -v "$name") && ! is_snap "$path"; then
      printf '%s\n' "$path"
      return 0
    fi
  done
  return 1
}

need_browser() {
  local browser
  if browser=$(find_browser); then
    say "browser: $browser"
    return 0
  fi
  if system_is ubuntu; then
    give_up "no usable browser is here, and Ubuntu's chromium is a snap, which cannot use cove's folders.
Install Google Chrome, then run this again:
  wget https://dl.google.com/linux/direct/google-chrome-stable_current_amd64.deb
  sudo apt-get install ./google-chrome-stable_current_amd64.deb"
  fi
  say "installing Chromium"
  if ! command -v apt-get >/dev/null && { system_is rhel || system_is centos; }; then
    # Enterprise Linux has it in EPEL. Fedora has it in its own repositories.
    [ -e /etc/fedora-release ] || install_packages "" "epel-release"
  fi
  install_packages "chromium fonts-dejavu-core fonts-noto-color-emoji" "chromium dejavu-sans-fonts"
  browser=$(find_browser) || give_up "Chromium was installed and is still not found in PATH"
  say "browser: $browser"
}

# Checks cargo against `rust-version` of Cargo.toml, which lies in the current folder.
need_cargo() {
  local wanted have
  if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  fi
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  if ! command -v cargo >/dev/null; then
    give_up "cargo is not here. Install Rust $wanted or newer (https://rustup.rs):
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
  fi
  have=$(rustc --version | cut -d ' ' -f 2)
  if [ "$(printf '%s\n%s\n' "$wanted" "${have%%-*}" | sort -V | head -n 1)" != "$wanted" ]; then
    give_up "Rust $have is too old: $wanted or newer is needed (rustup update stable)"
  fi
  say "Rust $have"
}

# For the simulator of Dolphin Anty in tests/dolphin, which needs nothing beyond Python's own library.
need_python() {
  if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "installing Python"
    install_packages "python3" "python3"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || give_up "python3 is older than 3.11"
  fi
  say "$(python3 --version)"
}

# Where the Python is that has what a list of requirements pins, the first of them in its name. The current folder
# is the repository.
python_with() {
  local name version
  name=$(sed -n '1s/==.*//p' "$1")
  version=$(sed -n '1s/.*==//p' "$1")
  printf '%s\n' "${CARGO_TARGET_DIR:-$PWD/target}/$name-$version/bin/python3"
}

# Runs packaging/examples/worker.py.
playwright_python() {
  python_with packaging/examples/requirements.txt
}

schemathesis_python() {
  python_with tests/schemathesis/requirements.txt
}

# need_python_with REQUIREMENTS MODULE: makes that Python, from PyPI. Calls at the same time wait for each other.
need_python_with() {
  local python folder requirements=$1 module=$2
  python=$(python_with "$requirements")
  folder=${python%/bin/python3}
  mkdir -p "${folder%/*}"
  exec 9>"$folder.lock"
  flock 9
  if ! "$python" -c "import $module" 2>/dev/null; then
    say "installing what $requirements pins into $folder"
    if ! python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      install_packages "python3 python3-venv" "python3 python3-pip"
    fi
    python3 -m venv --clear "$folder" || give_up "python3 cannot make a virtual environment in $folder"
    "$python" -m pip install -q --disable-pip-version-check -r "$requirements" ||
      give_up "$requirements cannot be installed from PyPI (pip told why above)"
    "$python" -c "import $module" || give_up "$requirements was installed into $folder and $module cannot be imported"
  fi
  exec 9>&-
  say "$module: $python"
}

# Playwright without its browsers: the worker uses the system's own.
need_playwright() {
  need_python_with packaging/examples/requirements.txt playwright.sync_api
}

need_schemathesis() {
  need_python_with tests/schemathesis/requirements.txt schemathesis
}

# The clients for Node that tests connect to lent sessions lie there, under the hash of what is pinned.
node_clients() {
  local hash
  hash=$(sha256sum tests/sessions/package-lock.json | cut -c 1-12)
  printf '%s\n' "${CARGO_TARGET_DIR:-$PWD/target}/node-clients-$hash/node_modules"
}

node_is_new_enough() {
  node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)' 2>/dev/null &&
    command -v npm >/dev/null
}

# Node with Playwright and Puppeteer from the npm registry, without their browsers. Calls at the same time
# wait for each other.
need_node() {
  local modules folder
  if ! node_is_new_enough; then
    say "installing Node"
    install_packages "nodejs npm" "nodejs npm"
    node_is_new_enough || give_up "Node 20 or newer is needed, and this system's packages have $(node --version || printf none)"
  fi
  modules=$(node_clients)
  folder=${modules%/node_modules}
  mkdir -p "$folder"
  exec 9>"$folder/.lock"
  flock 9
  if [ ! -e "$folder/.whole" ]; then
    say "installing Playwright and Puppeteer for Node into $folder"
    cp tests/sessions/package.json tests/sessions/package-lock.json "$folder"
    (cd "$folder" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) ||
      give_up "Playwright and Puppeteer cannot be installed from the npm registry (npm told why above)"
    touch "$folder/.whole"
  fi
  exec 9>&-
  say "Node clients: $modules"
}

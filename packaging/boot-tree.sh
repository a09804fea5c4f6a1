# shellcheck shell=bash
# A booted system to try packages in: sourced by test-packages.sh and test-packages-rpm.sh, after install-needs.sh.
#
# It is a Debian of SUITE in a container with an init of its own, unpacked into memory from a tree that is made once
# and kept in target/packages-tree-SUITE.tar (TREE=FILE names another). Whoever sources this has $target and calls
# `summary` last.

# What the trees hold: systemd, a browser, and rpm for the other package.
tree_packages=systemd,systemd-sysv,dbus,udev,init,iproute2,procps,ca-certificates,curl,chromium,rpm
suite=${SUITE:-bookworm}
tree=${TREE:-$target/packages-tree-$suite.tar}

passed=0
failures=()
# check WHAT COMMAND...
check() {
  if "${@:2}" >"$work/last" 2>&1; then
    passed=$((passed + 1))
    printf 'ok    %s\n' "$1"
  else
    failures+=("$1")
    printf 'FAIL  %s\n' "$1"
    tail -n "${TELL:-8}" "$work/last" | sed 's/^/        /'
  fi
}

work=$(mktemp -d)
container=
leader=
finish() {
  if [ -n "$leader" ]; then
    inside systemctl poweroff >/dev/null 2>&1 || true
    for _ in $(seq 100); do
      kill -0 "$container" 2>/dev/null || break
      sleep 0.1
    done
    kill "$container" 2>/dev/null || true
    wait "$container" 2>/dev/null || true
  fi
  umount -R "$work/root" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

inside() {
  nsenter -t "$leader" -m -u -i -n -p -C -- /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"
}
shell() {
  inside sh -c "$1"
}

make_tree() {
  local tool
  for tool in mmdebstrap systemd-nspawn; do
    command -v "$tool" >/dev/null || install_packages "mmdebstrap systemd-container" ""
  done
  if [ ! -e "$tree" ]; then
    say "a tree of $suite (once)"
    mmdebstrap --format=tar --variant=minbase --include="$tree_packages" "$suite" "$tree.new"
    mv "$tree.new" "$tree"
  fi
  mkdir "$work/root"
  mount -t tmpfs -o size=6G tmpfs "$work/root"
  tar -C "$work/root" -xf "$tree" --exclude='./dev/*'
  rm -f "$work/root/etc/resolv.conf"
}

wait_until_booted() {
  local _
  for _ in $(seq 300); do
    leader=$(pgrep -P "$container" | head -n 1 || true)
    if [ -n "$leader" ]; then
      case $(inside systemctl is-system-running 2>/dev/null || true) in running | degraded) return 0 ;; esac
    fi
    sleep 0.1
  done
  return 1
}

boot() {
  mkdir -p /run/systemd/nspawn
  mountpoint -q /run/systemd/nspawn || mount -t tmpfs tmpfs /run/systemd/nspawn
  # One hierarchy of control groups, and the system call: IPAddressDeny= is a filter in them.
  SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn -q -D "$work/root" -M "cove-packages-$$" --register=no --keep-unit \
    --boot --private-network --capability=CAP_BPF --system-call-filter=bpf </dev/null >>"$work/console" 2>&1 &
  container=$!
  wait_until_booted || give_up "the container does not boot, see its console: $(tail -n 5 "$work/console")"
}

# With --keep-unit the container ends, and says by its exit code that it wants to be started again.
reboot() {
  local code=0
  inside systemctl reboot || true
  wait "$container" || code=$?
  [ "$code" = 133 ] || { printf 'the container ended with %s\n' "$code"; return 1; }
  boot
}

# under_load RATE WHAT COMMAND...: COMMAND while a client asks RATE times a second, each time on a connection of its own.
under_load() {
  local began
  nsenter -t "$leader" -n -- python3 packaging/test-packages-client.py "$work/enough" "$1" >"$work/client" &
  client=$!
  sleep 1
  began=$(date +%s%N)
  check "$2" "${@:3}"
  printf '      took %s ms\n' $((($(date +%s%N) - began) / 1000000))
  sleep 2
  touch "$work/enough"
  check "$2: of $1 requests a second none was refused and none failed" wait "$client"
  rm "$work/enough"
  sed 's/^/      /' "$work/client"
}

# All files but those of the system's own bookkeeping; more patterns may be named.
all_files() {
  local leave_out=() pattern
  for pattern in '/proc/*' '/sys/*' '/run/*' '/tmp/*' '/var/log/*' '/var/lib/dpkg/*' '/var/cache/*' '/var/lib/apt/*' \
    '/var/lib/rpm/*' '/root/.rpmdb/*' '/var/tmp/*' "$@"; do
    leave_out+=(-not -path "$pattern")
  done
  inside find / -xdev "${leave_out[@]}" | sort
}

# Backups that the system's own tools make of their files, and what systemd keeps.
same_files() {
  ! diff "$1" "$2" | grep -E '^[<>]' | grep -vE '/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$|/var/lib/systemd/'
}

summary() {
  say "summary"
  printf '%s checks passed, %s failed\n' "$passed" "${#failures[@]}"
  if [ ${#failures[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failures[@]}"
    exit 1
  fi
}

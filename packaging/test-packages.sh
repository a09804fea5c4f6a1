#!/usr/bin/env bash
# The life of the deb in a booted system: lintian, then install, first use with a real Chromium, restart and upgrade
# under a client that counts what fails, kill, hang, downgrade, remove, reinstall, purge. By hand, as root, on
# Debian; `tests/release.sh` runs it as its round `packages`.
#
#   packaging/test-packages.sh [DEB]     (without it, packaging/build.sh makes one)
#
# The system is a Debian of SUITE (bookworm) in a container with an init of its own; it is made once and kept in
# target/packages-tree-SUITE.tar (TREE=FILE names another).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=packaging/install-needs.sh
. packaging/install-needs.sh

[ "$(id -u)" = 0 ] || give_up "this boots a container: run it as root"
target=${CARGO_TARGET_DIR:-$PWD/target}
suite=${SUITE:-bookworm}
tree=${TREE:-$target/packages-tree-$suite.tar}
for tool in mmdebstrap systemd-nspawn lintian; do
  command -v "$tool" >/dev/null || install_packages "mmdebstrap systemd-container lintian" ""
done
if [ $# -gt 0 ]; then
  deb=$(readlink -f "$1")
else
  packaging/build.sh deb
  deb=$(readlink -f "$(ls -t "$target"/packages/cove_*.deb | head -n 1)")
fi

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
    tail -n 5 "$work/last" | sed 's/^/        /'
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

say "figures"
size=$(stat -c %s "$deb")
installed=$(dpkg-deb -f "$deb" Installed-Size)
printf 'deb: %s bytes; installed: %s KiB\n' "$size" "$installed"
check "the deb has at most 10 MB" test "$size" -le 10000000
check "installed it takes at most 30 MB" test "$installed" -le 29296
check "lintian has no errors and no warnings" lintian --fail-on error,warning "$deb"

if [ ! -e "$tree" ]; then
  say "a tree of $suite (once)"
  mmdebstrap --variant=minbase --include=systemd,systemd-sysv,dbus,udev,init,iproute2,procps,ca-certificates,curl,chromium \
    "$suite" "$tree.new"
  mv "$tree.new" "$tree"
fi
say "booting"
mkdir "$work/root"
mount -t tmpfs -o size=6G tmpfs "$work/root"
tar -C "$work/root" -xf "$tree" --exclude='./dev/*'
rm -f "$work/root/etc/resolv.conf"
mkdir "$work/root/debs"
cp "$deb" "$work/root/debs/1.deb"
# The next version: the same files, another number.
dpkg-deb -R "$deb" "$work/next"
sed -i 's/^Version: \(.*\)$/Version: \1+next1/' "$work/next/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip -z1 -b "$work/next" "$work/root/debs/2.deb" >/dev/null
mkdir -p /run/systemd/nspawn
mountpoint -q /run/systemd/nspawn || mount -t tmpfs tmpfs /run/systemd/nspawn
systemd-nspawn -q -D "$work/root" -M "cove-packages-$$" --register=no --keep-unit --boot --private-network \
  </dev/null >"$work/console" 2>&1 &
container=$!
for _ in $(seq 100); do
  leader=$(pgrep -P "$container" | head -n 1 || true)
  [ -n "$leader" ] && break
  sleep 0.1
done
for _ in $(seq 300); do
  case $(inside systemctl is-system-running 2>/dev/null || true) in running | degraded) break ;; esac
  sleep 0.1
done

say "install"
inside find / -xdev -not -path '/proc/*' -not -path '/sys/*' -not -path '/run/*' -not -path '/tmp/*' -not -path '/var/log/*' \
  -not -path '/var/lib/dpkg/*' -not -path '/var/cache/*' -not -path '/var/lib/apt/*' | sort >"$work/before"
check "apt installs it" inside apt-get install -q -y --no-install-recommends /debs/1.deb
cp "$work/last" "$work/told"
check "it says where the page is and how to get a token" grep -q 'cove tokens create admin --scope admin' "$work/told"
check "nothing runs that nobody started" shell '! systemctl is-active -q cove.service && ! systemctl is-active -q cove.socket'
check "systemctl enable --now cove" inside systemctl enable --now cove
check "both sockets are enabled with it" inside systemctl is-enabled -q cove.service cove.socket cove-browser.socket
check "it is ready when systemctl comes back" shell 'curl -fsS --unix-socket /run/cove/cove.sock http://localhost/api/v1/health'
check "its status says where it serves" shell 'systemctl show -P StatusText cove | grep -q "serving http://127.0.0.1:8088"'
check "root needs no token on the unix socket" inside cove status
check "cove doctor finds no error" inside env COVE_BROWSER__HOST_SOCKET=/run/cove-browser/host.sock cove doctor
check "a token is made, and opens the API" shell \
  'token=$(cove tokens create admin --scope admin) && curl -fsS -H "authorization: Bearer $token" http://127.0.0.1:8088/api/v1/tasks'
check "without one the API stays shut" shell \
  '[ "$(curl -s -o /dev/null -w "%{http_code}" http://127.0.0.1:8088/api/v1/tasks)" = 401 ]'
check "others than the user cove may not look into the state" shell \
  '[ "$(stat -c "%a %U %G" /var/lib/cove)" = "710 cove cove-media" ] && ! find /var/lib/cove -maxdepth 1 -type f -perm /0027 -not -name listen | grep .'
for unit in cove cove-browser; do
  inside systemd-analyze security --no-pager "$unit.service" 2>/dev/null | tail -n 1 || true
done
check "exposure of the running cove.service: at most 1.2" inside systemd-analyze security --no-pager --threshold=12 cove.service
check "exposure of the running cove-browser.service: at most 2.0" inside systemd-analyze security --no-pager --threshold=20 cove-browser.service

say "an upload with Chromium"
check "media, the flow, a profile" shell 'install -d -m 750 -g cove-media /srv/media &&
  echo "a very short film" >/srv/media/1.mp4 && chgrp cove-media /srv/media/1.mp4 && chmod 640 /srv/media/1.mp4 &&
  sed -i "s|^#roots = \[\]|roots = [\"/srv/media\"]|" /etc/cove/cove.toml &&
  printf "COVE_LIMITS__HEALTH=0\nCOVE_LIMITS__REQUESTS=0\nCOVE_RESOURCES__CPU_THRESHOLD_PERCENT=0\n" >>/etc/default/cove && systemctl restart cove &&
  systemd-run -q --unit=practice --property=Type=exec cove practice-site --listen 127.0.0.1:8099 --dir /tmp/practice &&
  cove flows add atelier /usr/share/doc/cove/examples/flows/atelier.json && cove profiles add anna'
upload() {
  inside cove run atelier --profile anna --input site=http://127.0.0.1:8099 --input account=anna \
    --input video=/srv/media/1.mp4 --input "caption=$1" --key "$1"
}
check "it is published, by a browser of the other user with its sandbox on" upload first
# Whether so many tasks are there, and all have succeeded.
succeeded() {
  local states
  states=$(inside cove tasks list --json | sed -n 's/^      "state": "\(.*\)",$/\1/p')
  printf '%s\n' "$states"
  [ "$(grep -c . <<<"$states")" = "$1" ] && [ "$(sort -u <<<"$states")" = succeeded ]
}
browsers() {
  inside systemctl show -P MainPID cove-browser.service
}
check "the browser host runs, as its own user" shell \
  '[ "$(ps -o user= -p "$(systemctl show -P MainPID cove-browser.service)")" = cove-browser ]'

# What of the daemon's unit can be seen from inside its namespace.
main() {
  inside systemctl show -P MainPID cove.service
}
say "hardening, from inside"
check "nothing but the state can be written" shell 'pid=$(systemctl show -P MainPID cove.service)
  nsenter -t "$pid" -m -- sh -c "touch /var/lib/cove/probe && rm /var/lib/cove/probe &&
    ! touch /etc/probe && ! touch /usr/probe && ! touch /var/lib/probe && [ -z \"\$(ls -A /root 2>/dev/null)\" ]"'
check "no privilege can be gained, and there is a filter of system calls" shell \
  'pid=$(systemctl show -P MainPID cove.service)
  grep -q "^NoNewPrivs:.1" /proc/$pid/status && grep -q "^Seccomp:.2" /proc/$pid/status && grep -q "^CapBnd:.0000000000000000" /proc/$pid/status'

# under_load WHAT COMMAND...: COMMAND while a client asks 50 times a second, each time on a connection of its own.
under_load() {
  local began
  nsenter -t "$leader" -n -- python3 packaging/test-packages-client.py "$work/enough" >"$work/client" &
  client=$!
  sleep 1
  began=$(date +%s%N)
  check "$1" "${@:2}"
  printf '      took %s ms\n' $((($(date +%s%N) - began) / 1000000))
  sleep 2
  touch "$work/enough"
  check "$1: nothing refused, nothing failed" wait "$client"
  rm "$work/enough"
  sed 's/^/      /' "$work/client"
}
twenty_restarts() {
  local n
  for n in $(seq 20); do
    # Not more often than the unit allows.
    inside systemctl reset-failed cove.service && inside systemctl restart cove.service || return 1
  done
}
say "restart and upgrade under load"
host=$(browsers)
before=$(main)
under_load "a reload" inside systemctl reload cove
check "the daemon is the same" test "$before" = "$(main)"
under_load "a restart" inside systemctl restart cove
under_load "twenty restarts" twenty_restarts
before=$(main)
under_load "apt installs the next version" inside apt-get install -q -y /debs/2.deb
check "the daemon is the new one" test "$before" != "$(main)"
check "the browsers' host is the same" test "$host" = "$(browsers)"
check "what was configured is kept" shell 'grep -q "^roots = ...srv/media" /etc/cove/cove.toml'
check "it is still enabled" inside systemctl is-enabled -q cove.service cove.socket cove-browser.socket
check "it still publishes" upload second

say "kill, hang"
check "killed, it is started again" shell 'systemctl reset-failed cove
  kill -9 "$(systemctl show -P MainPID cove)"
  for n in $(seq 100); do [ "$(systemctl show -P NRestarts cove)" -ge 1 ] && systemctl is-active -q cove && break; sleep 0.1; done
  curl -fsS --retry 5 http://127.0.0.1:8088/api/v1/health/simple'
check "and has lost nothing" succeeded 2
check "standing still, it is stopped by the watchdog and started again" shell 'old=$(systemctl show -P MainPID cove)
  kill -STOP "$old"
  for n in $(seq 600); do pid=$(systemctl show -P MainPID cove); [ "$pid" != 0 ] && [ "$pid" != "$old" ] && systemctl is-active -q cove && break; sleep 0.1; done
  journalctl -u cove --no-pager | grep -qi "watchdog timeout" && curl -fsS --max-time 20 http://127.0.0.1:8088/api/v1/health/simple'
check "a wrong setting is told and not retried for ever" shell 'systemctl reset-failed cove; cp /etc/cove/cove.toml /tmp/good
  sed -i "s|^#listen = .*|listen = \"127.0.0.1:9\"|" /etc/cove/cove.toml
  ! systemctl restart cove; [ "$(systemctl show -P ExecMainStatus cove)" = 78 ] && systemctl is-failed -q cove &&
  journalctl -u cove --no-pager | grep -q "choose the address in cove.socket"; told=$?
  cp /tmp/good /etc/cove/cove.toml; systemctl reset-failed cove cove.socket; systemctl start cove && exit $told'

say "downgrade, remove, reinstall, purge"
check "downgrade" inside apt-get install -q -y --allow-downgrades /debs/1.deb
check "it runs" shell 'curl -fsS http://127.0.0.1:8088/api/v1/health/simple'
check "remove" inside apt-get remove -q -y cove
check "nothing listens and nothing runs" shell '! pgrep -u cove . && ! pgrep -u cove-browser . && ! ss -ltn | grep 8088'
check "the data is kept" shell 'test -s /var/lib/cove/state.redb && test -d /var/lib/cove-browser/profiles'
check "reinstall" inside apt-get install -q -y /debs/1.deb
check "it is enabled as before" inside systemctl is-enabled -q cove.service cove.socket
check "it goes on where it was" shell 'systemctl start cove'
check "with all that it had" succeeded 2
check "purge" inside apt-get purge -q -y cove
check "users and groups are gone" shell '! getent passwd cove cove-browser && ! getent group cove cove-browser cove-media'
inside systemctl stop practice
inside find / -xdev -not -path '/proc/*' -not -path '/sys/*' -not -path '/run/*' -not -path '/tmp/*' -not -path '/var/log/*' \
  -not -path '/var/lib/dpkg/*' -not -path '/var/cache/*' -not -path '/var/lib/apt/*' -not -path '/srv/media*' | sort >"$work/after"
left() {
  # Backups that the system's own tools make of their files.
  ! diff "$work/before" "$work/after" | grep -E '^[<>]' | grep -vE '/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$|/var/lib/systemd/'
}
check "the file system is as before" left

say "summary"
printf '%s checks passed, %s failed\n' "$passed" "${#failures[@]}"
if [ ${#failures[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failures[@]}"
  exit 1
fi

#!/usr/bin/env bash
# The life of the rpm with its scriptlets in a booted system: rpmlint, then install, start, upgrade under load,
# downgrade, remove. By hand, as root, on Debian; `tests/release.sh` runs it as its round `packages`.
#
#   packaging/test-packages-rpm.sh     (packaging/build.sh rpm comes before it, here or in the round)
#
# The system's programs are Debian's: what is tried is the package, its scriptlets and its units, not Fedora.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=packaging/install-needs.sh
. packaging/install-needs.sh

[ "$(id -u)" = 0 ] || give_up "this boots a container: run it as root"
target=${CARGO_TARGET_DIR:-$PWD/target}
for tool in rpm rpmlint; do
  command -v "$tool" >/dev/null || install_packages "rpm rpmlint" ""
done
rpm=$(find "$target/packages" -name 'cove-*.rpm' 2>/dev/null | head -n 1)
staged=$PWD/target/package/tree
if [ -z "$rpm" ] || [ ! -e "$staged/Cargo.toml" ]; then
  packaging/build.sh rpm
  rpm=$(find "$target/packages" -name 'cove-*.rpm' | head -n 1)
fi
# shellcheck source=packaging/boot-tree.sh
. packaging/boot-tree.sh

say "the package"
printf 'rpm: %s bytes; installed: %s bytes\n' "$(stat -c %s "$rpm")" "$(rpm -qp --queryformat '%{SIZE}' "$rpm")"
check "rpmlint has no errors" rpmlint -c packaging/rpm/rpmlint.toml "$rpm"
# Every file that is promised, in the place where a Fedora looks for it.
contents() {
  local file
  rpm -qlp "$rpm" >"$work/contents"
  for file in usr/bin/cove usr/lib/systemd/system/{cove,cove-browser}.{service,socket} usr/lib/sysusers.d/cove.conf \
    usr/lib/tmpfiles.d/cove.conf etc/cove/cove.toml etc/default/cove etc/ufw/applications.d/cove \
    usr/share/man/man1/{cove,cove-serve,cove-browser-host}.1.gz usr/share/bash-completion/completions/cove \
    usr/share/zsh/site-functions/_cove usr/share/fish/vendor_completions.d/cove.fish \
    usr/share/licenses/cove/LICENSE usr/share/doc/cove/NEWS.gz \
    usr/share/doc/cove/examples/{nginx.conf,flows/atelier.json,grafana/cove.json,worker/worker.py} \
    usr/share/doc/cove/examples/prometheus/{alerts,scrape}.yml \
    usr/share/doc/cove/examples/systemd/{desktop-user,outbound}.conf; do
    grep -qx "/$file" "$work/contents" || { printf 'missing: %s\n' "$file"; return 1; }
  done
}
check "it has every file that is promised" contents
check "what it needs of users and groups it brings itself" sh -c \
  'rpm -qp --requires "$1" | grep -oE "^(user|group)\([a-z-]+\)" | while read -r need; do rpm -qp --provides "$1" | grep -qF "$need" || exit 1; done' sh "$rpm"
check "its recommendation is a browser" sh -c 'rpm -qp --recommends "$1" | grep -qx chromium' sh "$rpm"

make_tree
mkdir "$work/root/rpms"
cp "$rpm" "$work/root/rpms/1.rpm"
# The next version: the same files, another release.
generate=${COVE_TOOLS:-$target/tools}/bin/cargo-generate-rpm
(cd "$staged" && "$generate" generate-rpm --payload-compress gzip -s 'release = "2"' --output "$work/root/rpms/2.rpm")
say "booting"
boot

# Debian's own packages give what is needed, and its rpm does not know of them.
rpm_() {
  inside rpm --force-debian --nodeps "$@"
}
say "install"
inside rpm --initdb
all_files >"$work/before"
check "rpm installs it" rpm_ -i /rpms/1.rpm
cp "$work/last" "$work/told"
check "it says where the page is and where the token will be" grep -q /etc/cove/admin-token "$work/told"
check "its scriptlet made the users and folders" shell 'getent passwd cove cove-browser && getent group cove-media && [ "$(stat -c "%a %U %G" /var/lib/cove)" = "710 cove cove-media" ]'
check "every file is as it was packed" inside rpm -V --nodeps cove
check "nothing runs that nobody started" shell '! systemctl is-active -q cove.service && ! systemctl is-active -q cove.socket'
# The client below asks for its health more often than one address may.
inside sh -c 'echo COVE_LIMITS__HEALTH=0 >>/etc/default/cove'
check "systemctl enable --now cove" inside systemctl enable --now cove
check "it is ready when systemctl comes back" shell 'curl -fsS --unix-socket /run/cove/cove.sock http://localhost/api/v1/health'
check "there is a first token, for root alone, and it opens the API" shell \
  '[ "$(stat -c "%a %U" /etc/cove/admin-token)" = "600 root" ] && curl -fsS -H "authorization: Bearer $(cat /etc/cove/admin-token)" http://127.0.0.1:8088/api/v1/tokens'
for bound in "cove.service 12" "cove-browser.service 20"; do
  check "exposure of the running ${bound% *}: at most ${bound#* } tenths" \
    inside systemd-analyze security --no-pager --threshold="${bound#* }" "${bound% *}"
done
inside systemctl start cove-browser.service
check "a profile is made" inside cove profiles add anna
check "something is configured" inside sed -i 's/^#metrics = 20$/metrics = 77/' /etc/cove/cove.toml

say "upgrade, downgrade"
main() {
  inside systemctl show -P MainPID "$1"
}
daemon=$(main cove.service)
host=$(main cove-browser.service)
under_load 50 "rpm upgrades it" rpm_ -U /rpms/2.rpm
check "the daemon is the new one" test "$daemon" != "$(main cove.service)"
check "the browsers' host is the same" test "$host" = "$(main cove-browser.service)"
check "it is still enabled, and what was configured is kept" shell \
  'systemctl is-enabled -q cove.service cove.socket cove-browser.socket && grep -qx "metrics = 77" /etc/cove/cove.toml'
check "it has what it had" shell 'cove profiles list | grep anna'
under_load 50 "rpm takes it back to the version before" rpm_ -U --oldpackage /rpms/1.rpm
check "it has what it had then, too" shell 'cove profiles list | grep anna'
check "it boots again" reboot
check "and cove is there by itself" shell 'curl -fsS --retry 20 --retry-connrefused http://127.0.0.1:8088/api/v1/health/simple && cove status'

say "remove"
check "rpm removes it" rpm_ -e cove
check "nothing listens, nothing runs and nothing is enabled" shell \
  '! pgrep -u cove . && ! pgrep -u cove-browser . && ! ss -ltn | grep 8088 && ! systemctl cat cove.service && ! find /etc/systemd -name "cove*" | grep .'
check "the data is kept" shell 'test -s /var/lib/cove/state.redb && test -d /var/lib/cove-browser'
all_files '/var/lib/cove*' '/var/log/cove*' >"$work/after"
left() {
  # What was changed by hand rpm keeps beside, and the token is root's.
  diff "$work/before" "$work/after" | grep -E '^[<>]' | grep -vE '/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$|/var/lib/systemd/' |
    grep -vxE '> (/etc/cove|/etc/cove/cove.toml.rpmsave|/etc/default/cove.rpmsave|/etc/cove/admin-token)' && return 1 || return 0
}
check "nothing else is left" left
check "installed again, it goes on where it was" shell \
  'rpm -i --force-debian --nodeps /rpms/2.rpm && systemctl enable --now cove && cove profiles list | grep anna'

summary

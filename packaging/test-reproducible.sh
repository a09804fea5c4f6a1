#!/usr/bin/env bash
# Two builds of the last commit in two folders, one after the other: every package has to have the same bytes. By hand;
# `tests/release.sh` runs it as its round `reproducible`.
#
#   packaging/test-reproducible.sh [--quick] [deb] [rpm] [tar]
#
# --quick leaves the optimiser out, which is most of the time: what it can find are paths, times and orders, not an
# optimiser that is of two minds.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=packaging/install-needs.sh
. packaging/install-needs.sh

if [ "${1:-}" = --quick ]; then
  shift
  export CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
  # Cargo.toml has levels for some packages, which would win.
  quick=yes
fi
# Somebody may commit while the first is built.
commit=$(git rev-parse HEAD)
export COVE_TOOLS=${COVE_TOOLS:-${CARGO_TARGET_DIR:-$PWD/target}/tools}
unset CARGO_TARGET_DIR
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
trap 'rm -rf "$work"' EXIT

# built FOLDER KINDS...: prints the sums of its packages.
built() {
  local folder=$1
  shift
  mkdir -p "$(dirname "$folder")"
  git clone -q --no-hardlinks . "$folder"
  git -C "$folder" checkout -q --detach "$commit"
  if [ -n "${quick:-}" ]; then
    sed -i '/^\[profile\.release\.package\./,/^opt-level/d' "$folder/Cargo.toml"
  fi
  (cd "$folder" && packaging/build.sh "$@") >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; return 1; }
  (cd "$folder/target/packages" && sha256sum -- *)
}

say "one folder"
built "$work/one" "$@" >"$work/sums-of-one"
cat "$work/sums-of-one"
cp "$work/one/target/packages-build/release/cove" "$work/cove"
say "another, with a longer name"
built "$work/another/folder-with-a-longer-name" "$@" >"$work/sums-of-another"
cmp "$work/cove" "$work/another/folder-with-a-longer-name/target/packages-build/release/cove" || say "the binaries differ, unstripped"
cmp "$work/sums-of-one" "$work/sums-of-another" || { cat "$work/sums-of-another"; give_up "the builds differ"; }
say "the control: a package of another time"
SOURCE_DATE_EPOCH=1000000000 "$work/one/packaging/build.sh" --binary "$work/cove" "$@" >"$work/log" 2>&1
(cd "$work/one/target/packages" && sha256sum -- *) >"$work/sums-of-control"
! cmp -s "$work/sums-of-one" "$work/sums-of-control" || give_up "a package of another time has the same bytes: nothing is compared"
say "the same bytes"

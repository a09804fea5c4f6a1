#!/usr/bin/env bash
# Builds the packages: a deb, an rpm and a portable tarball, into target/packages. What is in them stands in
# Cargo.toml ([package.metadata.deb] and [package.metadata.generate-rpm]).
#
#   packaging/build.sh [--binary FILE] [deb] [rpm] [tar]     (all three when none is named)
#
# --binary packages a binary that was built before, to try the packaging itself. Tools that are missing are built
# into target/tools. Two builds of one commit by the same toolchain give the same bytes, wherever they are made:
# paths are taken out of the binary, and every time is that of the commit.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=packaging/install-needs.sh
. packaging/install-needs.sh

# The C library of Enterprise Linux 9, the oldest that the packages are for.
oldest_glibc=2.34

target=${CARGO_TARGET_DIR:-$PWD/target}
tools=${COVE_TOOLS:-$target/tools}
out=$target/packages
binary=
kinds=()
while [ $# -gt 0 ]; do
  case $1 in
    --binary)
      binary=$(readlink -f "$2")
      shift
      ;;
    deb | rpm | tar) kinds+=("$1") ;;
    *) give_up "unknown: $1 (deb, rpm, tar, --binary FILE)" ;;
  esac
  shift
done
[ ${#kinds[@]} -gt 0 ] || kinds=(deb rpm tar)

wanted() {
  case " ${kinds[*]} " in *" $1 "*) true ;; *) false ;; esac
}

# need_tool CRATE VERSION
need_tool() {
  if [ ! -x "$tools/bin/$1" ]; then
    say "building $1 $2 (some minutes, once)"
    cargo install --locked --root "$tools" --target-dir "$target/tools-build" "$1" --version "$2"
  fi
}

need_compiler
need_cargo
wanted deb && need_tool cargo-deb ^3.8
wanted rpm && need_tool cargo-generate-rpm ^0.21

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C
umask 022

if [ -z "$binary" ]; then
  say "building cove"
  export RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD=cove --remap-path-prefix=$target=target --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
  # The linker's own would be a hash of all that is stripped afterwards, too, and names in there are by folder.
  if commit=$(git rev-parse HEAD 2>/dev/null); then
    RUSTFLAGS+=" -C link-arg=-Wl,--build-id=0x$commit"
  fi
  export CARGO_TARGET_DIR=$target/packages-build
  cargo build --release --locked --bin cove
  unset RUSTFLAGS
  binary=$CARGO_TARGET_DIR/release/cove
fi

say "putting together what is made from the binary"
# Where Cargo.toml looks for it.
stage=$PWD/target/package
rm -rf "$stage"
mkdir -p "$stage/man" "$stage/completions" "$out"
# --strip-debug would leave the names of every function: a third of the size, and a crash report has offsets anyway.
strip -o "$stage/cove" "$binary"
chmod 755 "$stage/cove"
"$stage/cove" man --dir "$stage/man"
gzip -9n "$stage"/man/*.1
for shell in bash zsh fish; do
  "$stage/cove" completions "$shell" >"$stage/completions/$shell"
done
gzip -9nc CHANGELOG.md >"$stage/NEWS.gz"
find "$stage" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

newest=$(objdump -T "$stage/cove" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
if [ "$(printf '%s\nGLIBC_%s\n' "$newest" "$oldest_glibc" | sort -V | tail -n 1)" != "GLIBC_$oldest_glibc" ]; then
  give_up "the binary needs $newest, and the packages are for systems with GLIBC_$oldest_glibc: build it on an older one"
fi
say "the newest symbol of the C library: $newest"

version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)

if wanted deb; then
  say "deb"
  "$tools/bin/cargo-deb" deb --locked --no-build --no-strip --output "$out/"
fi
if wanted rpm; then
  say "rpm"
  # From a copy: an rpm keeps the times of its files, and those of a checkout are when it was made.
  copy=$stage/tree
  mkdir -p "$copy/target/package"
  cp -r Cargo.toml Cargo.lock src systemd packaging LICENSE LICENSE-APACHE LICENSE-MIT "$copy/"
  cp -r "$stage/cove" "$stage/man" "$stage/completions" "$stage/NEWS.gz" "$copy/target/package/"
  find "$copy" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  (cd "$copy" && "$tools/bin/cargo-generate-rpm" generate-rpm --payload-compress zstd \
    --source-date "$SOURCE_DATE_EPOCH" --output "$out/")
fi
if wanted tar; then
  say "tarball"
  root=cove-$version-$(uname -m)-linux
  rm -rf "${stage:?}/$root"
  mkdir -p "$stage/$root"
  cp -r "$stage/cove" "$stage/man" "$stage/completions" "$stage/$root/"
  cp -r systemd packaging/cove.toml packaging/etc packaging/flows packaging/grafana packaging/prometheus \
    packaging/examples README.md CHANGELOG.md LICENSE LICENSE-APACHE LICENSE-MIT "$stage/$root/"
  rm "$stage/$root/prometheus/alerts_test.yml"
  tar -C "$stage" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -cf - "$root" |
    gzip -9n >"$out/$root.tar.gz"
fi

say "packages"
(cd "$out" && ls -l && sha256sum -- *.deb *.rpm *.tar.gz 2>/dev/null) || true

#!/usr/bin/env bash
# From a fresh checkout to published posts: installs what is missing (Chromium included), builds cove and
# runs its demo. Arguments go to the demo: `./packaging/quickstart.sh --keep`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=packaging/install-needs.sh
. packaging/install-needs.sh

need_compiler
need_browser
need_cargo

say "building cove (the first time takes some minutes)"
cargo build --release --locked

say "cove demo $*"
exec "${CARGO_TARGET_DIR:-target}/release/cove" demo "$@"

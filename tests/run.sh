#!/usr/bin/env bash
# Everything that a change must pass: formatter, clippy with warnings denied, all tests, and the licenses
# and sources of dependencies where cargo-deny is installed. Installs what the tests need where it is missing.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=packaging/install-needs.sh
. packaging/install-needs.sh

need_compiler
need_browser
need_strace
need_promtool
need_nginx
need_cargo
need_python
need_playwright
need_node
need_schemathesis

say "formatter"
cargo fmt --check

say "clippy"
cargo clippy --all-targets --locked -- -D warnings

if cargo nextest --version >/dev/null 2>&1; then
  say "tests (cargo nextest)"
  cargo nextest run --locked --no-fail-fast
  say "examples in the documentation"
  cargo test --doc --locked
else
  say "tests (cargo test; cargo-nextest is not installed)"
  cargo test --locked --no-fail-fast
fi

say "the Dolphin simulator's own tests"
python3 -m unittest discover -s tests/dolphin

say "schemathesis over the description of the API"
"$(schemathesis_python)" tests/schemathesis/run.py "${CARGO_TARGET_DIR:-target}/debug/cove" 3

if cargo deny --version >/dev/null 2>&1; then
  say "licenses and sources of dependencies"
  cargo deny --locked check licenses bans sources
else
  say "skipped: licenses and sources of dependencies (cargo-deny is not installed: cargo install --locked cargo-deny)"
fi

say "all passed"

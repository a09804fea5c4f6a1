#!/usr/bin/env bash
# The long rounds, by hand before a release: what tests/run.sh tries for minutes is tried here for hours.
#
# Prints how many of each were tried and with which seed; a round that fails does not stop the others, and
# is named again at the end. Knobs, all from the environment:
#
#   ONLY="power kill"    these rounds alone: sim power faults damage kill syscalls moments ext4 locks fence
#                        frozen fleet mishaps soak leak crowd snapshots controls api packages rpm
#                        reproducible fuzz
#   SEED=n               the same seed for all of them; without it each draws and prints its own
#   SIM_ROUNDS=1000      random histories of the engine over a real store
#   POWER_CUTS=20000     simulated power cuts with torn sectors
#   DOUBLE_CUTS=2000     the same, with a second cut while the store recovers
#   FAULTS_EVERY=1       every n-th operation of the disk fails, in each way, also during recovery
#   FLIPS=5000           flipped bytes; FILE_CUTS=1000 cut files
#   POINTS=0             kills at system calls; 0: at all of them
#   MOMENTS=0            kills at system calls of a snapshot, a restore, a compaction, a migration; 0: at all of them
#   KILL_ROUNDS=2000     kill -9 of the daemon under load
#   EXT4_CUTS=1000       power cuts of an ext4 on a loop device (root, mounts)
#   LOCK_ROUNDS=200      kills in a recorded history of the lock service
#   FENCE_ROUNDS=300     kill -9 of daemon, browser, both, or their connection around the click (real browsers)
#   FROZEN_ROUNDS=20     browsers that stand still for longer than the attempt may take
#   FLEET_ROUNDS=100     kill -9 of the daemon under FLEET=8 browsers: no orphans, nothing twice
#   SNAPSHOTS=100        snapshots under full load, each put back and compared; with 5000 flipped bits and 1000 cuts
#   CROWD=500            bad connections of each kind beside an honest client
#   CONTROLS="07 12b"    these negative controls of the fence alone; without it all of tests/controls
#   SOAK_ITEMS=200       uploads through SOAK_PROFILES=8 profiles of a simulated Dolphin that fails in every way, with
#                        a daemon of a release build that takes SOAK_MEMORY_MB=60 at the most
#   API_EXAMPLES=170     what schemathesis makes of each kind of request; 170 are some 10,000 cases
#   LEAK_TASKS=10000     tasks through outside workers: memory, descriptors and the state file of a release build stay
#   FUZZ_MINUTES=70      for each of seven targets: eight hours together
#   TMPDIR=/dev/shm      where the states lie; on a real disk a kill meets more syncs, in memory more work
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=packaging/install-needs.sh
. packaging/install-needs.sh

need_compiler
need_browser
need_strace
need_cargo
need_python

logs=$(mktemp -d)
told='(SEED=[0-9]+$|seeds [0-9].*|skipped: .*|soak: .*|leak: .*|crowd: .*|[0-9]+ (snapshots|kills|power cuts|double power cuts|failures|flips|cuts|of [0-9]+ places).*)'
summary=()
failed=()

wanted() {
  [ -z "${ONLY:-}" ] || case " $ONLY " in *" $1 "*) true ;; *) false ;; esac
}

# rounds NAME [--release] [KNOB=VALUE]... -- TEST-BINARY FILTER...: runs the tests, keeps their output, tells what they
# tried. With --release against the daemon as it is shipped: what it weighs in a debug build is nobody's figure.
rounds() {
  local name=$1 knobs=() build=() log began took tests
  shift
  while [ "$1" != -- ]; do
    case $1 in
      --*) build+=("$1") ;;
      *) knobs+=("$1") ;;
    esac
    shift
  done
  shift
  local binary=$1
  shift
  wanted "$name" || return 0
  if [ -n "${SEED:-}" ]; then
    knobs+=("SEED=$SEED")
  fi
  say "$name: ${knobs[*]} $*"
  log="$logs/$name.$#.$RANDOM.log"
  cargo test --locked "${build[@]}" --no-run --test "$binary"
  began=$SECONDS
  if env "${knobs[@]}" cargo test --locked "${build[@]}" --test "$binary" -- --nocapture --test-threads 1 "$@" >"$log" 2>&1; then
    took="passed in $((SECONDS - began)) s"
  else
    took="FAILED after $((SECONDS - began)) s, see $log"
    failed+=("$name")
    grep -A 3 'panicked at' "$log" | tail -n 20 || true
  fi
  # What the tests say of themselves: seeds, and how many of what were tried. A line may follow a test's name.
  { grep -oE "$told" "$log" || true; } | sed 's/^/    /'
  tests=$(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "$log")
  summary+=("$name: $took (${tests:-0} tests; ${knobs[*]})")
  printf '    %s\n' "$took"
}

# script NAME FILTER COMMAND...: a round that is a program of its own; FILTER (sed) picks from its output what it tells.
script() {
  local name=$1 filter=$2 log began took
  shift 2
  wanted "$name" || return 0
  say "$name"
  log="$logs/$name.log"
  began=$SECONDS
  if "$@" >"$log" 2>&1; then
    took="passed in $((SECONDS - began)) s"
  else
    took="FAILED after $((SECONDS - began)) s, see $log"
    failed+=("$name")
  fi
  { sed -n "$filter" "$log" || true; } | sed 's/^/    /'
  summary+=("$name: $took")
  printf '    %s\n' "$took"
}

# fuzz: each target is led by coverage for FUZZ_MINUTES; what it finds is kept beside the log.
fuzz() {
  local target
  cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz || return 1
  export RUSTC_BOOTSTRAP=1
  for target in flow codec config body head ledger protocol; do
    cargo fuzz run --fuzz-dir tests/fuzz "$target" -- -max_total_time="$((60 * FUZZ_MINUTES))" -print_final_stats=1 \
      -artifact_prefix="$logs/fuzz-" || return 1
    printf 'fuzz %s: passed\n' "$target"
  done
}

if [ -z "${ONLY:-}" ]; then
  say "building"
  cargo test --locked --no-run
fi

rounds sim ROUNDS="${SIM_ROUNDS:-1000}" -- sim nothing_twice_and_nothing_lost negative_control
rounds power CUTS="${POWER_CUTS:-20000}" DOUBLE="${DOUBLE_CUTS:-2000}" -- crash power::
rounds faults EVERY="${FAULTS_EVERY:-1}" -- crash faults::
rounds damage FLIPS="${FLIPS:-5000}" CUTS="${FILE_CUTS:-1000}" -- crash damage::
rounds kill ROUNDS="${KILL_ROUNDS:-2000}" -- crash kill::
rounds syscalls POINTS="${POINTS:-0}" -- crash syscalls::
rounds moments MOMENTS="${MOMENTS:-0}" COMPACTIONS=0 -- crash moments:: compaction::
rounds ext4 POWERCUTS="${EXT4_CUTS:-1000}" -- crash powercut::
rounds locks ROUNDS="${LOCK_ROUNDS:-200}" -- it lock_history
rounds fence ROUNDS="${FENCE_ROUNDS:-300}" -- fence rounds::whatever rounds::negative
rounds frozen ROUNDS="${FROZEN_ROUNDS:-20}" -- fence rounds::a_browser_frozen
rounds fleet ROUNDS="${FLEET_ROUNDS:-100}" FLEET="${FLEET:-8}" -- fence fleet::
rounds mishaps -- fence mishaps::
rounds snapshots SNAPSHOTS="${SNAPSHOTS:-100}" FLIPS=5000 CUTS=1000 -- snapshots d8_ flipped_anywhere cut_or
rounds snapshots -- it snapshots::
rounds crowd CROWD="${CROWD:-500}" -- it guards::h1
rounds soak --release ITEMS="${SOAK_ITEMS:-200}" PROFILES="${SOAK_PROFILES:-8}" \
  MOST_MEMORY_MB="${SOAK_MEMORY_MB:-60}" -- dolphin_daemon soak::
rounds leak --release TASKS="${LEAK_TASKS:-10000}" GROWN_MB=8 -- it leak::
read -r -a chosen <<<"${CONTROLS:-}"
# The table of what was switched off and who noticed.
script controls '/^==> controls$/,$p' tests/controls.sh "${chosen[@]}"
if wanted api; then
  need_schemathesis
  cargo build --locked
fi
script api '/^schemathesis: /p; /generated/p' "$(schemathesis_python)" tests/schemathesis/run.py \
  "${CARGO_TARGET_DIR:-target}/debug/cove" "${API_EXAMPLES:-170}" ${SEED:+"$SEED"}
# The lives of the deb and the rpm in a booted system; root, Debian.
script packages '/^ok /d; p' packaging/test-packages.sh
script rpm '/^ok /d; p' packaging/test-packages-rpm.sh
script reproducible p packaging/test-reproducible.sh
FUZZ_MINUTES=${FUZZ_MINUTES:-70} script fuzz '/^fuzz /p; /^stat::number_of_executed_units/p' fuzz

say "summary"
printf '    %s\n' "${summary[@]}"
if [ ${#failed[@]} -gt 0 ]; then
  give_up "failed: ${failed[*]}; the logs are in $logs"
fi
rm -r "$logs"
say "all passed"

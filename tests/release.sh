#!/usr/bin/env bash
# The long rounds, by hand before a release: what tests/run.sh tries for minutes is tried here for hours.
#
# Prints how many of each were tried and with which seed; a round that fails does not stop the others, and
# is named again at the end. Knobs, all from the environment:
#
#   ONLY="power kill"    these rounds alone: sim power faults damage kill syscalls ext4 locks fence
#                        frozen fleet mishaps soak crowd api snapshots
#   SEED=n               the same seed for all of them; without it each draws and prints its own
#   SIM_ROUNDS=1000      random histories of the engine over a real store
#   POWER_CUTS=20000     simulated power cuts with torn sectors
#   DOUBLE_CUTS=2000     the same, with a second cut while the store recovers
#   FAULTS_EVERY=1       every n-th operation of the disk fails, in each way, also during recovery
#   FLIPS=5000           flipped bytes; FILE_CUTS=1000 cut files
#   POINTS=0             kills at system calls; 0: at all of them
#   KILL_ROUNDS=2000     kill -9 of the daemon under load
#   EXT4_CUTS=1000       power cuts of an ext4 on a loop device (root, mounts)
#   LOCK_ROUNDS=200      kills in a recorded history of the lock service
#   FENCE_ROUNDS=300     kill -9 of daemon, browser, both, or their connection around the click (real browsers)
#   FROZEN_ROUNDS=20     browsers that stand still for longer than the attempt may take
#   FLEET_ROUNDS=100     kill -9 of the daemon under FLEET=8 browsers: no orphans, nothing twice
#   SNAPSHOTS=100        snapshots under full load, each put back and compared; with 5000 flipped bits and 1000 cuts
#   CROWD=500            bad connections of each kind beside an honest client
#   SOAK_ITEMS=200       uploads through SOAK_PROFILES=8 profiles of a simulated Dolphin that fails in every way
#   API_EXAMPLES=25      what schemathesis makes of each kind of request; 25 are some 10,000
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
told='(SEED=[0-9]+$|seeds [0-9].*|skipped: .*|soak: .*|crowd: .*|[0-9]+ (snapshots|kills|power cuts|double power cuts|failures|flips|cuts|of [0-9]+ places).*)'
summary=()
failed=()

wanted() {
  [ -z "${ONLY:-}" ] || case " $ONLY " in *" $1 "*) true ;; *) false ;; esac
}

# rounds NAME [KNOB=VALUE]... -- TEST-BINARY FILTER...: runs the tests, keeps their output, tells what they tried.
rounds() {
  local name=$1 knobs=() log began took tests
  shift
  while [ "$1" != -- ]; do
    knobs+=("$1")
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
  began=$SECONDS
  if env "${knobs[@]}" cargo test --locked --test "$binary" -- --nocapture --test-threads 1 "$@" >"$log" 2>&1; then
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

say "building"
cargo test --locked --no-run

rounds sim ROUNDS="${SIM_ROUNDS:-1000}" -- sim nothing_twice_and_nothing_lost negative_control
rounds power CUTS="${POWER_CUTS:-20000}" DOUBLE="${DOUBLE_CUTS:-2000}" -- crash power::
rounds faults EVERY="${FAULTS_EVERY:-1}" -- crash faults::
rounds damage FLIPS="${FLIPS:-5000}" CUTS="${FILE_CUTS:-1000}" -- crash damage::
rounds kill ROUNDS="${KILL_ROUNDS:-2000}" -- crash kill::
rounds syscalls POINTS="${POINTS:-0}" -- crash syscalls::
rounds ext4 POWERCUTS="${EXT4_CUTS:-1000}" -- crash powercut::
rounds locks ROUNDS="${LOCK_ROUNDS:-200}" -- it lock_history
rounds fence ROUNDS="${FENCE_ROUNDS:-300}" -- fence rounds::whatever rounds::negative
rounds frozen ROUNDS="${FROZEN_ROUNDS:-20}" -- fence rounds::a_browser_frozen
rounds fleet ROUNDS="${FLEET_ROUNDS:-100}" FLEET="${FLEET:-8}" -- fence fleet::
rounds mishaps -- fence mishaps::
rounds snapshots SNAPSHOTS="${SNAPSHOTS:-100}" FLIPS=5000 CUTS=1000 -- snapshots d8_ flipped_anywhere cut_or
rounds snapshots -- it snapshots::
rounds crowd CROWD="${CROWD:-500}" -- it guards::h1
rounds soak ITEMS="${SOAK_ITEMS:-200}" PROFILES="${SOAK_PROFILES:-8}" -- dolphin_daemon soak::

if wanted api; then
  say "api"
  need_schemathesis
  began=$SECONDS
  if "$(schemathesis_python)" tests/schemathesis/run.py "${CARGO_TARGET_DIR:-target}/debug/cove" "${API_EXAMPLES:-25}" ${SEED:+"$SEED"} >"$logs/api.log" 2>&1; then
    summary+=("api: passed in $((SECONDS - began)) s")
  else
    summary+=("api: FAILED after $((SECONDS - began)) s, see $logs/api.log")
    failed+=(api)
  fi
  { grep -E '^schemathesis: |generated' "$logs/api.log" || true; } | sed 's/^/    /'
fi

say "summary"
printf '    %s\n' "${summary[@]}"
if [ ${#failed[@]} -gt 0 ]; then
  give_up "failed: ${failed[*]}; the logs are in $logs"
fi
rm -r "$logs"
say "all passed"

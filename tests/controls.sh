#!/usr/bin/env bash
# The negative controls of the publish fence: each numbered rule is switched off, and its tests must fail.
#
#   tests/controls.sh                 every control
#   tests/controls.sh 07 rule_12b     all of rule 7, and one of rule 12
#
# tests/controls/rule_NN.patch (a letter behind the number where a rule has parts) begins with a sentence that
# says what it switches off, and a line `Tests: lib store it` that names the test binaries in which `rule_N_`
# tests have to notice. Each is applied to a scratch worktree of HEAD: what is not committed is not tried. First
# the same tests have to pass without any patch, or their failure would prove nothing. A patch that does not
# build, tests that hang and a name without a test are errors, not failures that count.
#
#   CONTROLS_TARGET=dir   builds there and keeps it: the dependencies are built once, cove once for each control
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=packaging/install-needs.sh
. packaging/install-needs.sh

root=$PWD
# For the tests of one binary under one control; they take minutes at most.
limit=900

scratch=$(mktemp -d)
target=${CONTROLS_TARGET:-$scratch/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
# One path for a target that is kept: cargo knows what it built by where it lay.
tree=$target/tree
export CARGO_TARGET_DIR=$target/build
# Nobody steps through these.
export CARGO_PROFILE_DEV_DEBUG=0

tidy() {
  git -C "$root" worktree remove --force "$tree" 2>/dev/null || true
  rm -rf "$scratch"
}
trap tidy EXIT

# The patches that are meant, in their order.
chosen() {
  local name
  if [ $# -eq 0 ]; then
    printf '%s\n' tests/controls/rule_*.patch
    return
  fi
  for name in "$@"; do
    name=$(basename "$name" .patch)
    name=${name#rule_}
    compgen -G "tests/controls/rule_$name.patch" || compgen -G "tests/controls/rule_$name[a-z].patch" ||
      give_up "there is no tests/controls/rule_$name.patch, nor parts of it"
  done
}

# rule_07b.patch -> 7
rule_of() {
  basename "$1" | sed -E 's/^rule_0*([0-9]+)[a-z]?\.patch$/\1/'
}

binaries_of() {
  sed -n 's/^Tests: //p' "$1"
}

# cargo's words for test binaries.
targets() {
  local binary
  for binary in "$@"; do
    if [ "$binary" = lib ]; then echo --lib; else printf -- '--test\n%s\n' "$binary"; fi
  done
}

build() {
  local words
  mapfile -t words < <(targets "$@")
  (cd "$tree" && cargo test --locked --no-run "${words[@]}") >"$scratch/build.log" 2>&1
}

# The tests of rule $1 in binary $2: rule_7_and_8_x is of both rules, rule_17_x of neither.
tests_of() {
  local words
  mapfile -t words < <(targets "$2")
  (cd "$tree" && cargo test --locked "${words[@]}" -- --list --format terse 2>"$scratch/list.log") |
    sed -n 's/: test$//p' | grep -E "(^|::)rule_([0-9]+_and_)*$1_[^:]*$" || true
}

# Runs the tests of rule $1 in binary $2. Sets `tried` and `failed`, and `names` of those that failed; false
# where the binary did not come to its own end.
try_rule() {
  local words tests log=$scratch/tests.log
  mapfile -t words < <(targets "$2")
  mapfile -t tests < <(tests_of "$1" "$2")
  tried=${#tests[@]} failed=0 names=()
  [ "$tried" -gt 0 ] || return 0
  (cd "$tree" && timeout --kill-after 20 "$limit" cargo test --locked "${words[@]}" -- --exact "${tests[@]}") \
    >"$log" 2>&1 || true
  grep -qE "^test result: .* 0 measured" "$log" || return 1
  # A test's own output may begin on the line of its name; the list at the end is whole.
  mapfile -t names < <(awk '/^failures:$/ { listed = 1; names = ""; next } /^test result:/ { exit }
    listed && /^    [^ ]/ { names = names $1 "\n" } END { printf "%s", names }' "$log")
  failed=$(sed -nE 's/^test result: .* ([0-9]+) failed;.*/\1/p' "$log")
}

mapfile -t patches < <(chosen "$@")
[ ${#patches[@]} -gt 0 ] || give_up "no patches"
# What a run that was killed left behind; `--force` where git still counts it and its folder is gone.
[ ! -e "$tree" ] || git worktree remove --force "$tree" || rm -rf "$tree"
git worktree add --quiet --force --detach "$tree" HEAD

declare -A wanted
for patch in "${patches[@]}"; do
  [ -n "$(binaries_of "$patch")" ] || give_up "$patch has no line 'Tests: '"
  for binary in $(binaries_of "$patch"); do
    wanted[$binary]+=" $(rule_of "$patch")"
  done
done

say "without any patch: ${!wanted[*]}"
build "${!wanted[@]}" || {
  tail -n 40 "$scratch/build.log"
  give_up "HEAD does not build"
}
# What is wrong without a patch, by "RULE BINARY": nothing is proved there.
declare -A unfit
for binary in "${!wanted[@]}"; do
  for rule in $(tr ' ' '\n' <<<"${wanted[$binary]}" | sort -nu); do
    if ! try_rule "$rule" "$binary"; then
      tail -n 40 "$scratch/tests.log"
      unfit["$rule $binary"]="$binary does not end without the patch either"
    elif [ "$tried" -eq 0 ]; then
      unfit["$rule $binary"]="$binary has no test of it"
    elif [ "$failed" -gt 0 ]; then
      tail -n 40 "$scratch/tests.log"
      unfit["$rule $binary"]="$binary fails without the patch as well"
    fi
    printf '    rule %s in %s: %s\n' "$rule" "$binary" "${unfit["$rule $binary"]:-$tried passed}"
  done
done

table=()
unnoticed=()
for patch in "${patches[@]}"; do
  name=$(basename "$patch" .patch)
  rule=$(rule_of "$patch")
  all_tried=0 all_failed=0 error=
  say "$name: $(head -n 1 "$patch")"
  read -r -a binaries < <(binaries_of "$patch")
  if ! git -C "$tree" apply "$root/$patch"; then
    error="does not apply"
  elif ! build "${binaries[@]}"; then
    tail -n 40 "$scratch/build.log"
    error="does not build"
  else
    for binary in "${binaries[@]}"; do
      error=${unfit["$rule $binary"]:-}
      [ -z "$error" ] || break
      if ! try_rule "$rule" "$binary"; then
        tail -n 40 "$scratch/tests.log"
        error="$binary did not end"
        break
      fi
      all_tried=$((all_tried + tried)) all_failed=$((all_failed + failed))
      for noticed in "${names[@]}"; do
        printf '    noticed by %s %s\n' "$binary" "$noticed"
      done
      # Each that is named has to notice: a name that proves nothing is not carried along.
      if [ "$failed" -eq 0 ]; then
        error="$binary did not notice"
        break
      fi
    done
  fi
  git -C "$tree" checkout --quiet -- .
  git -C "$tree" clean --quiet --force -d
  [ -z "$error" ] || unnoticed+=("$name ($error)")
  table+=("$(printf '%4s  %-10s %6s %7s  %s' "$rule" "$name" "$all_tried" "$all_failed" "${error:-noticed}")")
done

say "controls"
printf '%4s  %-10s %6s %7s\n' rule patch tests failed
printf '%s\n' "${table[@]}"
if [ ${#unnoticed[@]} -gt 0 ]; then
  give_up "not noticed: ${unnoticed[*]}"
fi
say "all ${#patches[@]} controls were noticed"

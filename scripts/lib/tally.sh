# shellcheck shell=bash
# Counting of test results: each step's own runner is asked how many passed and failed.

PASSED=0
FAILED=0
FAILED_STEPS=()
# What the failed steps said last, for the summary.
FAILED_OUTPUT=''
FAILED_LINES=25

# Runs a step, shows what it prints, and adds up the results that its output tells (cargo test and
# node's runner); a step that tells none counts as one test.
step() { # TITLE COMMAND...
  local title=$1 log status=0 passed failed started=$SECONDS
  shift
  printf '\n== %s\n' "$title"
  log=$(mktemp)
  # The step runs in a shell of its own with errors on: a condition would switch them off.
  set +e
  (set -e; "$@") </dev/null 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  set -e
  passed=$(count_results passed "$log")
  failed=$(count_results failed "$log")
  if ((status != 0 && failed == 0)); then failed=1; fi
  if ((status == 0 && passed + failed == 0)); then passed=1; fi
  PASSED=$((PASSED + passed))
  FAILED=$((FAILED + failed))
  if ((failed > 0)); then
    FAILED_STEPS+=("$title")
    FAILED_OUTPUT+=$(printf '\n== %s said:' "$title" && failure_of "$log")$'\n'
  fi
  rm -f -- "$log"
  printf -- '-- %s: %s (%d s)\n' "$title" "$( ((failed == 0)) && echo passed || echo FAILED)" \
    $((SECONDS - started))
}

# The lines of a failed test, where they can be told apart, and the last ones.
failure_of() { # LOG
  printf '\n'
  grep -E -A 4 "^thread '.*panicked|^test .* FAILED\$" "$1" | cut -c 1-300 | tail -n 40 || true
  tail -n "$FAILED_LINES" -- "$1" | cut -c 1-300
}

count_results() { # passed|failed LOG
  local node=${1%ed}
  sed -n -E \
    -e "s/^test result: .* ([0-9]+) $1;.*/\1/p" \
    -e "s/^[^ ]+ $node ([0-9]+)\$/\1/p" "$2" |
    awk '{ total += $1 } END { print total + 0 }'
}

# The closing line is alone on its line.
summary() {
  printf '\n'
  if ((FAILED > 0)); then printf '%s\n' "$FAILED_OUTPUT"; fi
  if ((FAILED > 0)); then printf 'Failed: %s\n' "$(printf '%s; ' "${FAILED_STEPS[@]}" | sed 's/; $//')"; fi
  printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
  ((FAILED == 0))
}

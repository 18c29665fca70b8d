#!/usr/bin/env bash
# scripts/up on a running stack changes nothing; every part comes back after kill -9; the data
# survive scripts/down and scripts/up.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/all.sh
source "$SCRIPTS/lib/all.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"

DIR=$REALCHAT_DIR
load_settings "$DIR"

pids() {
  grep _PID= "$DIR/env"
}

is_back() { # NAME OLD_PID
  local now
  now=$(part_pid "$DIR" "$1") && [[ $now != "$2" ]] && part_is_ready "$DIR" "$1"
}

kill_each() {
  local name pid started
  while IFS= read -r name; do
    pid=$(part_pid "$DIR" "$name")
    started=$SECONDS
    kill -KILL "$pid"
    wait_until 30 is_back "$name" "$pid" || wrong "$name did not come back after kill -9"
    say "$name came back within $((SECONDS - started + 1)) s"
    [[ $(env_get "$DIR/env" "$(env_prefix "$name")_PID") == "$(part_pid "$DIR" "$name")" ]] ||
      wrong "DIR/env does not have the new process id of $name"
  done < <(stack_parts)
}

# A supervisor that was killed leaves its part alone: scripts/up starts it anew.
kill_supervisor() {
  local supervisor supervisor_start child child_start restarts stop_signal before
  read_identity "$DIR" relay
  before=$child
  kill -KILL "$supervisor"
  prints 'Ending relay, which an earlier run left behind' "$SCRIPTS/up" --dir "$DIR"
  read_identity "$DIR" relay
  [[ $child != "$before" ]] || wrong 'the orphaned relay was not replaced'
}

before=$(pids)
prints 'Everything is already running; nothing was changed.' "$SCRIPTS/up" --dir "$DIR"
[[ $(pids) == "$before" ]] || wrong 'a second scripts/up changed the processes'
"$SCRIPTS/status" --dir "$DIR"
kill_each
kill_supervisor

user=$("$BINARIES/realchat" --as survivor --json register --password 'outlives a restart')
"$SCRIPTS/down" --dir "$DIR"
for name in $(recorded_parts "$DIR"); do wrong "$name still runs"; done
if "$SCRIPTS/status" --dir "$DIR" >/dev/null; then wrong 'status says that a stopped stack is ready'; fi
prints 'Everything is running.' "$SCRIPTS/up" --dir "$DIR"
again=$("$BINARIES/realchat" --as survivor --json login --password 'outlives a restart')
[[ $(grep -o '"user_id":"[^"]*"' <<<"$again") == "$(grep -o '"user_id":"[^"]*"' <<<"$user")" ]] ||
  wrong "the account changed: $user, then $again"

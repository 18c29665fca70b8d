#!/usr/bin/env bash
# The supervisor: restarts with growing delays, passes signals on, keeps the process id current.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/all.sh
source "$SCRIPTS/lib/all.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"

dir=$(mktemp -d)
finish() {
  stop_everything || true
  rm -rf -- "$dir"
}
trap finish EXIT
mkdir -p "$dir/pids" "$dir/logs"

stop_everything() {
  local name
  for name in crash stubborn steady; do
    signal_part "$dir" "$name"
    wait_part_gone "$dir" "$name"
  done
}

starts() {
  wc -l <"$dir/starts"
}

start_part "$dir" crash -- bash -c "date +%s%N >>'$dir/starts'; exit 3"
sleep 4
# At 0, 0.2, 0.6, 1.4 and 3 s; a busy machine is behind.
(($(starts) >= 3 && $(starts) <= 5)) || wrong "a crashing part was started $(starts) times in 4 s"
grep -q 'ended with status 3; it is started again in 400 ms' "$dir/logs/crash.log" ||
  wrong "the log does not tell of the crash: $(cat "$dir/logs/crash.log")"

start_part "$dir" stubborn --grace 1 -- bash -c 'trap "" TERM; while true; do sleep 0.1; done'
start_part "$dir" steady --cwd "$dir" -- bash -c 'pwd; exec sleep 600'
pid=$(part_pid "$dir" steady)
[[ $(env_get "$dir/env" STEADY_PID) == "$pid" && $(cat "$dir/pids/steady.pid") == "$pid" ]] ||
  wrong 'the process id is not in env and pids'
[[ $(cat "$dir/logs/steady.log") == "$dir" ]] || wrong 'the part was not started in its folder'
kill -KILL "$pid"
is_back() { local now && now=$(part_pid "$dir" steady) && [[ $now != "$pid" ]]; }
wait_until 10 is_back || wrong 'a killed part did not come back'
pid=$(part_pid "$dir" steady)
[[ $(env_get "$dir/env" STEADY_PID) == "$pid" ]] || wrong 'env does not have the new process id'
kill -STOP "$pid"
stubborn=$(part_pid "$dir" stubborn)
started=$SECONDS
stop_everything
((SECONDS - started <= 8)) || wrong "stopping took $((SECONDS - started)) s"
for pid in "$pid" "$stubborn"; do
  ! process_start "$pid" >/dev/null || wrong "process $pid still runs"
done
[[ -z $(recorded_parts "$dir") ]] || wrong 'stopped parts left identities behind'
sleep 2.5
(($(starts) <= 6)) || wrong 'a stopped part was started again'
say 'the supervisor restarts, records and stops'

#!/usr/bin/env bash
# Gateways that are restarted one after the other while people chat lose and double nothing, and each ends
# with status 0 within its drain time.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"

# What a process that ends has to do beside draining, and this test to see it.
MARGIN_MS=1000

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

"$BINARIES/perf" chaos --dir "$REALCHAT_DIR" --faults gateway-clean --at-once 1 --cycles 4 \
  --messages 2000 --json >"$work/verdict" || wrong "a restart under load: $(cat "$work/verdict")"
for count in lost duplicates reordered not_recovered; do
  # Keys that this report has are 0.
  ! grep -q -E "\"$count\":[1-9]" "$work/verdict" || wrong "$count: $(cat "$work/verdict")"
done

gone() { # PID
  ! kill -0 "$1" 2>/dev/null
}
ready() { # NUMBER
  local url
  url=$(sed -n -E "s/^GATEWAY_$1_ADMIN_URL='(.*)'/\1/p" "$REALCHAT_DIR/env")
  curl --silent --fail --output /dev/null "$url/readyz"
}

for number in 1 2; do
  name=gateway-$number
  drain_ms=$(sed -n -E 's/^drain_ms = ([0-9]+)$/\1/p' "$REALCHAT_DIR/config/$name.toml")
  [[ -n $drain_ms ]] || wrong "$name has no drain_ms"
  wait_until 20 ready "$number" || wrong "$name is not ready"
  pid=$(cat "$REALCHAT_DIR/pids/$name.pid")
  began_ms=$(date +%s%3N)
  kill -TERM "$pid"
  wait_until 20 gone "$pid" || wrong "$name still runs 20 s after SIGTERM"
  took_ms=$(($(date +%s%3N) - began_ms))
  ((took_ms <= drain_ms + MARGIN_MS)) || wrong "$name took $took_ms ms to end; drain_ms is $drain_ms"
  wait_until 20 grep -q "$name (process $pid) ended with status 0;" "$REALCHAT_DIR/logs/$name.log" ||
    wrong "$name did not end with status 0: $(grep "process $pid" "$REALCHAT_DIR/logs/$name.log" | tail -n 1)"
  say "$name ended with status 0 in $took_ms ms of $drain_ms"
done
for number in 1 2; do
  wait_until 20 ready "$number" || wrong "gateway-$number is not ready again"
done

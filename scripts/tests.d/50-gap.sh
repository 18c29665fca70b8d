#!/usr/bin/env bash
# A gateway with ring.overflow = "gap": a client that stops reading is told of its gap, and heals it.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"
# shellcheck source=scripts/lib/beside.sh
source "$SCRIPTS/lib/beside.sh"

MESSAGES=400
REALCHAT_HOME=$(mktemp -d)
export REALCHAT_HOME
listener=''
finish() {
  if [[ -n $listener ]]; then kill -KILL "$listener" 2>/dev/null || true; fi
  stop_beside
  rm -rf -- "$REALCHAT_HOME"
}
trap finish EXIT
unique=$(random_hex 4)
ann=ann-$unique ben=ben-$unique

start_beside REALCHAT_GATEWAY_RING_OVERFLOW=gap REALCHAT_GATEWAY_RING_ENTRIES=16 ||
  wrong 'the gateway did not start'
at "$REALCHAT_URL" "$ann" register --password "password of $ann" >/dev/null
at "$REALCHAT_URL" "$ben" register --password "password of $ben" >/dev/null
conversation=$(at "$REALCHAT_URL" "$ann" create --title Flood --member "$ben" | field conversation_id)
token=$(at "$REALCHAT_URL" "$ann" token | field access_token)
# Not by `at`: the process itself is stopped below.
"$BINARIES/realchat" --server "$BESIDE_URL" --as "$ben" --json tail "$conversation" --from 1 \
  --count $((MESSAGES + 1)) --seconds 120 >"$REALCHAT_HOME/seen" &
listener=$!
wait_until 20 grep -q sequence_number "$REALCHAT_HOME/seen" || wrong 'the listener saw no first event'
# It takes nothing more: its socket fills, then its ring.
kill -STOP "$listener"
text=$(head -c 12000 /dev/zero | tr '\0' x)
for ((message = 0; message < MESSAGES; message++)); do
  printf -- '--next\n--silent\n--show-error\n--fail\n--output /dev/null\nurl = "%s/v1/conversations/%s/messages"\n' \
    "$REALCHAT_URL" "$conversation"
  printf 'header = "Authorization: Bearer %s"\nheader = "Content-Type: application/json"\n' "$token"
  printf 'data = "{\\"text\\":\\"%s\\",\\"idempotency_key\\":\\"k-%d\\"}"\n' "$text" "$message"
done >"$REALCHAT_HOME/curl"
curl --max-time 120 --config "$REALCHAT_HOME/curl" || wrong 'the messages could not be sent'
is_shed() { (($(metric_of "$BESIDE_ADMIN_URL" realchat_gateway_rings_shed_total) > 0)); }
wait_until 20 is_shed || wrong 'the ring of a client that takes nothing was not shed'
[[ $(metric_of "$BESIDE_ADMIN_URL" realchat_gateway_gaps_told_total) == 0 ]] || wrong 'a gap was told to who takes nothing'
kill -CONT "$listener"
wait "$listener" || wrong "the listener did not see all in time: $(wc -l <"$REALCHAT_HOME/seen") events"
listener=''
sequences=$(sed -n -E 's/.*"sequence_number":([0-9]+).*/\1/p' "$REALCHAT_HOME/seen")
[[ $sequences == "$(seq $((MESSAGES + 1)))" ]] || wrong 'the listener did not see every event once and in order'
told=$(metric_of "$BESIDE_ADMIN_URL" realchat_gateway_gaps_told_total)
((told > 0)) || wrong 'no gap was told'
say "a slow client was told of $told gap(s), and has every event once and in order"

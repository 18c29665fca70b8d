#!/usr/bin/env bash
# A conversation that grows beyond what a record can name, and on to 50,000 members.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"
# shellcheck source=scripts/lib/beside.sh
source "$SCRIPTS/lib/beside.sh"

MEMBERS=${REALCHAT_LARGE_MEMBERS:-50000}
NAMED=1024
EVENTS=20
REALCHAT_HOME=$(mktemp -d)
export REALCHAT_HOME
listener='' watcher='' reader=''
finish() {
  local pid
  for pid in $listener $watcher $reader; do kill "$pid" 2>/dev/null || true; done
  rm -rf -- "$REALCHAT_HOME"
}
trap finish EXIT
read -r first second <<<"$REALCHAT_URLS"
unique=$(random_hex 4)
ann=ann-$unique ben=ben-$unique

# Ids of people whom nobody has seen yet, as JSON.
people() { # COUNT
  od -An -v -tx1 -w16 -N $((16 * $1)) /dev/urandom | tr -d ' ' |
    sed -E 's/(.{8})(.{4})(.{4})(.{4})(.{12})/"\1-\2-\3-\4-\5"/' | paste -sd,
}

post() { # PATH BODY
  curl --silent --show-error --fail --max-time 30 -H "Authorization: Bearer $token" \
    -H 'Content-Type: application/json' --data-binary "$2" "$first$1"
}

grow() { # COUNT: of people to add
  post "/v1/conversations/$conversation/members" "{\"user_ids\":[$(people "$1")]}" | field sequence_number
}

# Of both gateways together.
fetched() {
  local url total=0
  for url in "$GATEWAY_1_ADMIN_URL" "$GATEWAY_2_ADMIN_URL"; do
    total=$((total + $(metric_of "$url" realchat_gateway_rosters_fetched_total)))
  done
  echo "$total"
}

at "$first" "$ann" register --password "password of $ann" >/dev/null
at "$second" "$ben" register --password "password of $ben" >/dev/null
token=$(at "$first" "$ann" token | field access_token)
conversation=$(post /v1/conversations \
  "{\"title\":\"Stadium\",\"members\":[\"$ben\"],\"member_ids\":[$(people $((NAMED - 2)))]}" | field conversation_id)
[[ -n $conversation ]] || wrong 'no conversation was made'
before=$(fetched)
"$BINARIES/realchat" --server "$second" --as "$ben" --json tail "$conversation" --from 1 \
  --seconds 600 >"$REALCHAT_HOME/seen" &
listener=$!
is_seen() { grep -q "\"sequence_number\":$1[,}]" "$REALCHAT_HOME/seen"; }
await() { # SEQUENCE_NUMBER
  wait_until 30 is_seen "$1" || wrong "Ben did not see event $1: $(tail -n 3 "$REALCHAT_HOME/seen" | cut -c 1-200)"
}
say_one() { # TEXT
  post "/v1/conversations/$conversation/messages" \
    "{\"text\":\"$1\",\"idempotency_key\":\"$(random_hex 8)\"}" | field sequence_number
}

await "$(say_one "to $NAMED")"
[[ $(fetched) == "$before" ]] || wrong "members were asked for at $NAMED"
await "$(grow 1)"
await "$(say_one "to $((NAMED + 1))")"
(($(fetched) > before)) || wrong "members were not asked for at $((NAMED + 1))"
for ((left = MEMBERS - NAMED - 1; left > 0; left -= NAMED)); do
  last=$(grow $((left < NAMED ? left : NAMED)))
done
await "$last"
asked=$(fetched)
used=$(cpu_ms "$GATEWAY_2_PID")
for ((event = 0; event < EVENTS; event++)); do last=$(say_one "to $MEMBERS"); done
await "$last"
say "an event to $MEMBERS members, of whom few are online, cost a gateway" \
  "$((($(cpu_ms "$GATEWAY_2_PID") - used) / EVENTS)) ms of processor time"
[[ $(fetched) == "$asked" ]] || wrong 'members were asked for again though all changes came'

# Cy reads all that is said, and Ann and Ben are told how many did.
cy=cy-$unique
at "$second" "$cy" register --password "password of $cy" >/dev/null
post "/v1/conversations/$conversation/members" "{\"names\":[\"$cy\"]}" >/dev/null
"$BINARIES/realchat" --server "$first" --as "$ann" --json tail "$conversation" --receipts \
  --seconds 600 >"$REALCHAT_HOME/told" &
watcher=$!
"$BINARIES/realchat" --server "$second" --as "$cy" bot >/dev/null 2>&1 &
reader=$!
said=$(say_one 'who reads this?')
await "$said"
# The bot answers, and reads that, too: what counts is somewhere from there on.
is_told() {
  local last
  last=$(sed -n -E 's/.*"sequence_number":([0-9]+),"delivered_count":3,"read_count":1\}\].*/\1/p' \
    "$REALCHAT_HOME/told" | tail -n 1)
  ((${last:-0} >= said))
}
wait_until 30 is_told ||
  wrong "Ann was not told who read event $said: $(tail -n 3 "$REALCHAT_HOME/told" | cut -c 1-400)"
grep -q "\"member_count\":$((MEMBERS + 1))[,}]" "$REALCHAT_HOME/told" || wrong 'the summary counts other members'
! grep -q '"kind":"receipt",' "$REALCHAT_HOME/told" || wrong 'Ann was told of single receipts of others'
kill "$watcher" "$reader" 2>/dev/null || true
wait "$watcher" "$reader" 2>/dev/null || true
watcher='' reader=''
say "members of a conversation of $((MEMBERS + 1)) are told how many have read what"

# Ben goes, and hears of that and of nothing after it.
ben_id=$(at "$second" "$ben" conversations >/dev/null && at "$second" "$ben" members "$conversation" 2>/dev/null |
  grep "\"$ben\"" | field user_id)
[[ -n $ben_id ]] || wrong "Ben is not among the members that are shown first"
gone=$(curl --silent --show-error --fail --max-time 30 -X DELETE -H "Authorization: Bearer $token" \
  "$first/v1/conversations/$conversation/members/$ben_id" | field sequence_number)
say_one 'without Ben' >"$REALCHAT_HOME/after"
await "$gone"
sleep 2
! is_seen "$(cat "$REALCHAT_HOME/after")" || wrong 'Ben saw an event after he was removed'
kill "$listener" 2>/dev/null || true
wait "$listener" 2>/dev/null || true
count=$(grep -c '"sequence_number":' "$REALCHAT_HOME/seen")
sed -n -E 's/.*"sequence_number":([0-9]+).*/\1/p' "$REALCHAT_HOME/seen" | sort -n -C ||
  wrong 'Ben saw events out of order'
[[ $count == "$gone" ]] || wrong "Ben saw $count events of $gone"
say "a conversation of $MEMBERS members is told of every event, and a removed member of none after its removal"

#!/usr/bin/env bash
# A gateway with a topic of its own, beside one that tails everything: it is sent what its users need, all of it while
# Redis does not know them, and its sessions miss nothing.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/all.sh
source "$SCRIPTS/lib/all.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"
# shellcheck source=scripts/lib/beside.sh
source "$SCRIPTS/lib/beside.sh"

work=$(mktemp -d)
TAIL_PID=''
INSTANCE=routed-$$
redis_url=$(env_get "$REALCHAT_DIR/env" REDIS_URL)
HAS_TOPIC=0
finish() {
  stop_beside
  if [[ -n $TAIL_PID ]]; then kill "$TAIL_PID" 2>/dev/null || true; fi
  # Once a claim that the gateway had is over.
  ((HAS_TOPIC == 0)) || wait_until 10 forget || true
  rm -rf -- "$work"
}
trap finish EXIT
export REALCHAT_HOME=$work/home

relay() { # ARGUMENT...
  "$BINARIES/relay" --config "$REALCHAT_DIR/config/relay.toml" "$@"
}

forget() {
  relay gateways forget "$INSTANCE" >/dev/null 2>&1
}

consumed() {
  metric_of "$BESIDE_ADMIN_URL" realchat_gateway_records_consumed_total
}

is_told() {
  (($(metric_of "$BESIDE_ADMIN_URL" realchat_gateway_routes_told) == 1))
}

is_not_told() {
  ! is_told
}

# The client takes no user without a name from a URL.
redis() { # WORD...
  local secret=${redis_url#*://:} place=${redis_url##*@}
  place=${place%%/*}
  [[ $(REDISCLI_AUTH=${secret%@*} redis-cli -h "${place%:*}" -p "${place#*:}" "$@" 2>/dev/null) == OK ]] ||
    wrong "Redis did not do $*"
}

send() { # NAME CONVERSATION TEXT
  at "$REALCHAT_URL" "$1" send "$2" "$3" >/dev/null
}

start() {
  start_beside "REALCHAT_GATEWAY_INSTANCE=$INSTANCE" REALCHAT_GATEWAY_KAFKA_ROUTING=routed \
    "REALCHAT_GATEWAY_REDIS_URL=$redis_url"
}

if start_beside REALCHAT_GATEWAY_KAFKA_ROUTING=routed REALCHAT_GATEWAY_REDIS_URL= 2>/dev/null; then
  wrong 'it started without a Redis'
fi
grep -q 'needs redis.url' "$REALCHAT_DIR/logs/beside.log" || wrong "it said $(tail -n 1 "$REALCHAT_DIR/logs/beside.log")"

HAS_TOPIC=1
start || wrong 'it did not become ready'
wait_until 20 is_told || wrong "Redis has not its users: $(tail -n 3 "$REALCHAT_DIR/logs/beside.log")"
for name in here there other; do at "$REALCHAT_URL" "$name-$$" register --password correct-horse-routed >/dev/null; done
mine=$(at "$REALCHAT_URL" "there-$$" create --title Both --member "here-$$" | field conversation_id)
others=$(at "$REALCHAT_URL" "there-$$" create --title Others --member "other-$$" | field conversation_id)
at "$BESIDE_URL" "here-$$" tail "$mine" --from 1 --count 7 --seconds 120 >"$work/seen" &
TAIL_PID=$!
wait_until 20 has_lines "$work/seen" 1 || wrong 'the session did not begin'
[[ $(metric_of "$BESIDE_ADMIN_URL" realchat_gateway_routed_users) == 1 ]] || wrong 'it has not one user'

send "there-$$" "$mine" 'for both'
wait_until 20 has_lines "$work/seen" 2 || wrong 'what is for its user did not come'
before=$(consumed)
for number in 1 2 3 4 5; do send "there-$$" "$others" "for others $number"; done
send "there-$$" "$mine" 'for both again'
wait_until 20 has_lines "$work/seen" 3 || wrong 'what is for its user did not come'
# The message, and what is said of it as delivered.
(($(consumed) - before <= 3)) || wrong "it was sent $(($(consumed) - before)) records where one or two were for its user"

# The claim and the users are gone: it is sent everything until it has told them again.
redis FLUSHALL
send "there-$$" "$mine" 'after the loss'
wait_until 20 has_lines "$work/seen" 4 || wrong 'after Redis lost everything a message did not come'
wait_until 20 is_told || wrong 'it did not tell its users again'
send "there-$$" "$mine" 'after it was told again'
wait_until 20 has_lines "$work/seen" 5 || wrong 'once it had told its users again a message did not come'

# Redis answers nobody for longer than a claim lasts.
redis CLIENT PAUSE 6000 ALL
wait_until 10 is_not_told || wrong 'it believes a Redis that does not answer'
send "there-$$" "$mine" 'while Redis is silent'
wait_until 20 has_lines "$work/seen" 6 || wrong 'while Redis was silent a message did not come'
wait_until 30 is_told || wrong 'it did not tell its users again'

refuses 1 'stop it first' relay gateways forget "$INSTANCE"
send "there-$$" "$mine" 'the last'
wait "$TAIL_PID" || wrong "tail ended with $?"
TAIL_PID=''
sequence=$(sed -n -E 's/.*"sequence_number":([0-9]+).*/\1/p' "$work/seen" | tr '\n' ' ')
[[ $sequence == '1 2 3 4 5 6 7 ' ]] || wrong "the session saw $sequence"

# It is known to the relays: it is ready at once this time.
stop_beside
begun=$SECONDS
start || wrong 'it did not start again'
((SECONDS - begun < 15)) || wrong "its second start took $((SECONDS - begun)) s"
stop_beside
wait_until 10 forget || wrong 'it could not be forgotten'
HAS_TOPIC=0
say 'A gateway with a topic of its own was sent what its users need, and missed nothing'

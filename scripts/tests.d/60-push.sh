#!/usr/bin/env bash
# Who has no session gets a push request, on Kafka; who muted the conversation or is online gets none.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"
# shellcheck source=scripts/lib/beside.sh
source "$SCRIPTS/lib/beside.sh"

REALCHAT_HOME=$(mktemp -d)
export REALCHAT_HOME
listener=''
finish() {
  if [[ -n $listener ]]; then kill "$listener" 2>/dev/null || true; fi
  rm -rf -- "$REALCHAT_HOME"
}
trap finish EXIT
read -r first second <<<"$REALCHAT_URLS"
unique=$(random_hex 4)
ann=ann-$unique ben=ben-$unique

suppressed() { # REASON
  local line
  line=$(curl --silent --fail --max-time 5 "$RELAY_ADMIN_URL/metrics" |
    grep -F "realchat_relay_push_suppressed_total{reason=\"$1\"}" || true)
  echo "${line:+${line##* }}"
}
requested() { metric_of "$RELAY_ADMIN_URL" realchat_relay_push_requested_total; }
is_settled() { (($(metric_of "$RELAY_ADMIN_URL" realchat_relay_push_pending) == 0)); }
requested_beyond() { (($(requested) > $1)); }
suppressed_beyond() { (($(suppressed "$1") + 0 > $2)); }

at "$first" "$ann" register --password "password of $ann" >/dev/null
at "$second" "$ben" register --password "password of $ben" >/dev/null
conversation=$(at "$first" "$ann" create --title Push --member "$ben" | field conversation_id)
[[ -n $conversation ]] || wrong 'create printed no conversation_id'

before=$(requested)
at "$first" "$ann" send "$conversation" 'are you there' >/dev/null
wait_until 30 requested_beyond "$before" || wrong 'nobody was asked to push to Ben, who has no session'

# Once what earlier tests left is settled, these two are all that happens.
wait_until 120 is_settled || wrong 'push requests are not settled'
before=$(requested) muted=$(suppressed muted)
[[ $(at "$second" "$ben" mute "$conversation" --for 1h | field muted_until_us) =~ ^[0-9]+$ ]] ||
  wrong 'mute printed no time'
at "$first" "$ann" send "$conversation" 'still not' >/dev/null
wait_until 30 suppressed_beyond muted "$((muted + 0))" || wrong 'a muted conversation was not looked at'
[[ $(at "$second" "$ben" mute "$conversation" --off | field muted_until_us) == null ]] ||
  wrong 'mute --off left it muted'

"$BINARIES/realchat" --server "$second" --as "$ben" --json tail "$conversation" --from 1 \
  --seconds 120 >"$REALCHAT_HOME/seen" &
listener=$!
wait_until 30 grep -q sequence_number "$REALCHAT_HOME/seen" || wrong 'Ben saw nothing'
online=$(suppressed online)
at "$first" "$ann" send "$conversation" 'ah, there' >/dev/null
wait_until 30 suppressed_beyond online "$((online + 0))" || wrong 'that Ben is online was not seen'
[[ $(requested) == "$before" ]] || wrong 'Ben was to be pushed though he had muted, or was online'
say 'who has no session is to be pushed, unless it muted the conversation'

#!/usr/bin/env bash
# Two people chat from the command line, through two gateways.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"

REALCHAT_HOME=$(mktemp -d)
export REALCHAT_HOME
trap 'rm -rf -- "$REALCHAT_HOME"' EXIT
read -r first second <<<"$REALCHAT_URLS"
unique=$(random_hex 4)
ann=ann-$unique ben=ben-$unique

at "$first" "$ann" register --password "password of $ann" >/dev/null
at "$second" "$ben" register --password "password of $ben" >/dev/null
conversation=$(at "$first" "$ann" create --title Tea --member "$ben" | field conversation_id)
[[ -n $conversation ]] || wrong 'create printed no conversation_id'

# Ben listens at the second gateway; event 1 is the conversation's beginning.
at "$second" "$ben" tail "$conversation" --from 1 --count 4 --seconds 30 >"$REALCHAT_HOME/seen" &
listener=$!
for text in 'one' 'two' 'a "third" one'; do
  at "$first" "$ann" send "$conversation" "$text" >"$REALCHAT_HOME/sent"
done
wait "$listener" || wrong 'tail did not see the messages in 30 s'
[[ $(field sequence_number <"$REALCHAT_HOME/sent") == 4 ]] || wrong "the third message is no. $(cat "$REALCHAT_HOME/sent")"
sequences=$(sed -n -E 's/.*"sequence_number":([0-9]+).*/\1/p' "$REALCHAT_HOME/seen" | tr '\n' ' ')
[[ $sequences == '1 2 3 4 ' ]] || wrong "Ben saw the events $sequences: $(cat "$REALCHAT_HOME/seen")"

# The same key is the same message, also through the other gateway.
one=$(at "$first" "$ann" send "$conversation" 'once' --key "k-$unique" | field message_id)
two=$(at "$second" "$ann" send "$conversation" 'once' --key "k-$unique" | field message_id)
[[ -n $one && $one == "$two" ]] || wrong "one key gave the messages $one and $two"
[[ $(at "$second" "$ben" history "$conversation" --limit 50 | grep -c '"text":"once"') == 1 ]] ||
  wrong 'the repeated message is in the history more than once'

# What is done to a message reaches the other as it happens, and who comes later finds it as it is now.
message=$(at "$first" "$ann" send "$conversation" 'helo' | field message_id)
last=$(at "$second" "$ben" history "$conversation" --limit 1 | field sequence_number)
at "$second" "$ben" tail "$conversation" --from $((last + 1)) --count 3 --seconds 30 >"$REALCHAT_HOME/changes" &
listener=$!
at "$first" "$ann" edit "$conversation" "$message" 'hello' --key "e-$unique" >/dev/null
at "$second" "$ann" edit "$conversation" "$message" 'hello' --key "e-$unique" >/dev/null
at "$second" "$ben" react "$conversation" "$message" '👍' >/dev/null
at "$first" "$ann" delete "$conversation" "$message" >/dev/null
wait "$listener" || wrong 'tail did not see the changes of a message in 30 s'
kinds=$(sed -n -E 's/.*"kind":"([a-z_]+)".*/\1/p' "$REALCHAT_HOME/changes" | tr '\n' ' ')
[[ $kinds == 'message_edited reaction message_deleted ' ]] || wrong "Ben saw $kinds: $(cat "$REALCHAT_HOME/changes")"
if at "$second" "$ben" edit "$conversation" "$message" 'mine now' 2>"$REALCHAT_HOME/refused"; then
  wrong 'a deleted message was edited'
fi
grep -q 'not_found' "$REALCHAT_HOME/refused" || wrong "it was refused with $(cat "$REALCHAT_HOME/refused")"
! at "$second" "$ben" history "$conversation" --limit 50 | grep -q 'hel' || wrong 'the deleted text is in the history'
say 'two people chatted through two gateways'

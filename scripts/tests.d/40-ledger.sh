#!/usr/bin/env bash
# What is sent is accounted for at every stage, what is missing is told, and a restart is noticed.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
realchat=$BINARIES/realchat

"$realchat" ledger --save "$work/before" >/dev/null || wrong "the ledger's first reading failed"
"$BINARIES/perf" e2e --dir "$REALCHAT_DIR" --rate 300 --connections 40 --seconds 4 --json >"$work/e2e"
"$realchat" --json ledger --since "$work/before" >"$work/stages" || wrong "$(cat "$work/stages")"
committed=$(sed -n -E 's/.*"stage":"committed","entered":([0-9]+).*/\1/p' "$work/stages")
((committed >= 1200)) || wrong "1,200 messages were sent, but the ledger has $committed: $(cat "$work/stages")"
for stage in 'gateway-1 chat.message.created.v1' 'gateway-2 chat.message.created.v1' 'gateway-2 recipients'; do
  grep -q "\"stage\":\"$stage\",\"entered\":[1-9].*\"unaccounted\":0," "$work/stages" ||
    wrong "nothing is accounted for at the stage $stage: $(cat "$work/stages")"
done

# As if the relay had counted five more before: five are missing since.
before=$(grep -o '"relayed":{[^}]*"chat.message.created.v1":[0-9]*' "$work/before" | grep -o '[0-9]*$' | sort -n | tail -n 1)
sed -E "s/(\"relayed\":\{[^}]*\"chat.message.created.v1\":)$before/\1$((before + 5))/" "$work/before" >"$work/tampered"
refuses 1 '5 are unaccounted for' "$realchat" --json ledger --since "$work/tampered"

# As if chatd had counted more before than it has now.
sed -E 's/("committed":\{[^}]*"chat.message.created.v1":)[0-9]+/\199999999/' "$work/before" >"$work/restarted"
refuses 1 'chatd was started again' "$realchat" ledger --since "$work/restarted"
refuses 1 "is no saved ledger" "$realchat" ledger --since "$work/e2e"
say "$committed records are accounted for at every stage"

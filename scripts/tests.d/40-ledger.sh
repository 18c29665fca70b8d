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

topic=chat.message.created.v1

talk() { # SECONDS
  "$BINARIES/perf" e2e --dir "$REALCHAT_DIR" --rate 300 --connections 40 --seconds "$1" --json >"$work/e2e" ||
    wrong "perf e2e: $(cat "$work/e2e")"
}

# Most partitions have been used before.
talk 1
talk 1
"$realchat" ledger --save "$work/before" >/dev/null || wrong "the ledger's first reading failed"
talk 4
"$realchat" --json ledger --since "$work/before" >"$work/stages" || wrong "$(cat "$work/stages")"
committed=$(sed -n -E 's/.*"stage":"committed","entered":([0-9]+).*/\1/p' "$work/stages")
((committed >= 1200)) || wrong "1,200 messages were sent, but the ledger has $committed: $(cat "$work/stages")"
for stage in "gateway-1 $topic" "gateway-2 $topic" 'gateway-2 recipients'; do
  grep -q "\"stage\":\"$stage\",\"entered\":[1-9].*\"unaccounted\":0," "$work/stages" ||
    wrong "nothing is accounted for at the stage $stage: $(cat "$work/stages")"
done

# In each partition, too, and they are all of it.
rows() { # PART
  grep "\"part\":\"$1\",\"topic\":\"$topic\"" "$work/stages"
}
total() { # PART COUNT
  rows "$1" | sed -n -E "s/.*\"$2\":([0-9]+).*/\1/p" | awk '{ total += $1 } END { print total + 0 }'
}
said=$(sed -n -E "s/.*\"stage\":\"gateway-1 $topic\",\"entered\":([0-9]+).*/\1/p" "$work/stages")
for part in 'relay committed' 'relay relayed' 'gateway-1 consumed' 'gateway-2 consumed'; do
  # shellcheck disable=SC2086
  [[ $(total $part) == "$said" ]] || wrong "partitions' $part is not $said: $(rows "${part% *}")"
done
for count in mailed reached enqueued written; do
  (($(total gateway-1 "$count") > 0)) || wrong "no partition has $count: $(rows gateway-1)"
done
# A regular expression for what the relay has counted in a partition, up to the number.
relayed_in() { # PARTITION
  printf '"relayed":\\{("[^"]*":\\{[^}]*\\},)*"%s":\\{([^}]*,)?"%s":' "$topic" "$1"
}
# Partitions that were used before and since: conversations meet them by chance.
used=()
while read -r partition; do
  if grep -q -E "$(relayed_in "$partition")[0-9]{2}" "$work/before"; then used+=("$partition"); fi
done < <(rows relay | sed -n -E 's/.*"partition":([0-9]+).*"relayed":[0-9]{2,}.*/\1/p')
((${#used[@]} > 1)) || wrong "1,200 messages went to the partitions ${used[*]}: $(rows relay)"
! rows relay | grep -q '"modulo"' || wrong "what was committed is not told by partition: $(rows relay)"
"$realchat" ledger --since "$work/before" | grep -q -E "^relay +$topic +${used[0]} +committed [1-9].* unaccounted 0$" ||
  wrong 'there is no table for people'

# While messages flow: from before the first to after the last nothing is missing, and all are seen to pass.
"$realchat" ledger --save "$work/quiet" >/dev/null || wrong 'the reading before the watch failed'
"$realchat" --json ledger --since "$work/quiet" --watch 18 >"$work/watched" 2>&1 &
watch=$!
talk 6
wait "$watch" || wrong "the watch found a loss: $(tail -3 "$work/watched")"
for part in relay gateway-1 gateway-2; do
  last=$(grep "\"part\":\"$part\"" "$work/watched" | tail -1)
  passed=$(sed -n -E 's/.*"entered":([0-9]+).*/\1/p' <<<"$last")
  ((passed >= 1800)) || wrong "1,800 messages were sent, and of $part was seen: $last"
  grep -q '"under_way":0,"unaccounted":0,"unaccounted_at_most":0}' <<<"$last" || wrong "at the end: $last"
done

# As if the relay had counted more, or fewer, before in one partition.
tamper() { # FILE PARTITION MORE
  local relayed before
  relayed=$(relayed_in "$2")
  before=$(grep -o -E "${relayed}[0-9]+" "$1" | grep -o '[0-9]*$')
  sed -E "s/($relayed)$before/\1$((before + $3))/" "$1"
}
tamper "$work/before" "${used[0]}" 5 >"$work/tampered"
refuses 1 '5 are unaccounted for' "$realchat" --json ledger --since "$work/tampered"
refuses 1 '5 that entered more than 10 s ago' "$realchat" --json ledger --since "$work/tampered" --watch 15
# What another partition has twice makes up for nothing.
tamper "$work/tampered" "${used[1]}" -5 >"$work/swapped"
refuses 1 'are unaccounted for' "$realchat" --json ledger --since "$work/swapped"

# As if chatd had counted more before than it has now.
sed -E 's/("committed":\{[^}]*"[0-9]+":)[0-9]+/\199999999/' "$work/before" >"$work/restarted"
refuses 1 'chatd was started again' "$realchat" ledger --since "$work/restarted"
refuses 1 "is no saved ledger" "$realchat" ledger --since "$work/e2e"
say "$committed records are accounted for at every stage, in each of ${#used[@]} partitions"

#!/usr/bin/env bash
# Somebody who is removed in the middle of a conversation sees every event up to the removal, the removal itself,
# and nothing after, on every device and through every gateway.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"

work=$(mktemp -d)
PIDS=()
finish() {
  if ((${#PIDS[@]} > 0)); then kill "${PIDS[@]}" 2>/dev/null || true; fi
  rm -rf -- "$work"
}
trap finish EXIT
read -ra urls <<<"$REALCHAT_URLS"
export REALCHAT_HOME=$work/home
owner=owner-$$ guest=guest-$$ talker=talker-$$
for name in "$owner" "$guest" "$talker"; do
  at "${urls[0]}" "$name" register --password "correct-horse-$name" >/dev/null
done
conversation=$(at "${urls[0]}" "$owner" create --title Door --member "$guest" --member "$talker" | field conversation_id)

# A device of its own at each gateway.
watch() { # NUMBER URL
  REALCHAT_HOME=$work/device-$1 at "$2" "$guest" login --password "correct-horse-$guest" >/dev/null
  REALCHAT_HOME=$work/device-$1 at "$2" "$guest" tail "$conversation" --from 1 --seconds 60 >"$work/seen-$1" 2>"$work/error-$1" &
  PIDS+=($!)
}
for number in "${!urls[@]}"; do watch "$number" "${urls[number]}"; done
for number in "${!urls[@]}"; do
  wait_until 20 has_lines "$work/seen-$number" 1 || wrong "device $number sees nothing: $(cat "$work/error-$number")"
done

# Many at once, so that events are under way while the removal is.
talk() {
  local number
  for number in {1..60}; do
    at "${urls[$((number % ${#urls[@]}))]}" "$talker" send "$conversation" "number $number" >/dev/null &
    ((number % 8 != 0)) || wait -n
  done
  wait
}
talk &
talking=$!
wait_until 20 has_lines "$work/seen-0" 12 || wrong "device 0 sees $(wc -l <"$work/seen-0") events"
removal=$(at "${urls[0]}" "$owner" members "$conversation" --remove "$guest")
wait "$talking"

# The last number that any device was shown is that of the removal, which names the guest.
told() { # NUMBER
  grep -q -E '"removed":\["?[^]]' "$work/seen-$1"
}
for number in "${!urls[@]}"; do
  wait_until 20 told "$number" || wrong "device $number is not told of the removal ($removal): $(tail -n 2 "$work/seen-$number")"
done
last=$(at "${urls[0]}" "$owner" send "$conversation" 'after' | field sequence_number)
((last > 61)) || wrong "the conversation ends at $last"
sleep 1
python3 - "$work" "$last" "${#urls[@]}" <<'PYTHON'
import json, sys

work, last, devices = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ends = set()
for device in range(devices):
    events = [json.loads(line) for line in open(f"{work}/seen-{device}")]
    events = [it for it in events if it.get("sequence_number")]
    numbers = [it["sequence_number"] for it in events]
    assert numbers == list(range(1, len(numbers) + 1)), f"device {device} saw {numbers}"
    removals = [it["sequence_number"] for it in events if it.get("removed")]
    assert removals == [numbers[-1]], f"device {device}: removed at {removals}, saw up to {numbers[-1]}"
    ends.add(numbers[-1])
assert len(ends) == 1 and ends.pop() < last, f"{ends} of {last}"
PYTHON
say "a removal among $last events is the last that ${#urls[@]} devices are shown"

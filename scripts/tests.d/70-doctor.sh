#!/usr/bin/env bash
# doctor finds nothing wrong with a stack that works, and names what is wrong with one that does not.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
export REALCHAT_HOME=$work/home
realchat=("$BINARIES/realchat" --as "dora-$$" --json)

"${realchat[@]}" register --password 'correct horse battery' >/dev/null
"${realchat[@]}" doctor >"$work/checks" || wrong "doctor found: $(cat "$work/checks")"
for check in 'kafka partitions' 'api' 'sign-in' 'ready gateway_2' "connect $REALCHAT_URL" "clock $REALCHAT_URL"; do
  grep -qF "{\"check\":\"$check\",\"status\":\"ok\"" "$work/checks" ||
    wrong "doctor did not find $check well: $(cat "$work/checks")"
done

# A port that nobody listens on, in place of the broker's and then of the gateway's.
gone() { KAFKA_BROKERS=127.0.0.1:1 "${realchat[@]}" doctor; }
refuses 1 'checks failed' gone
KAFKA_BROKERS=127.0.0.1:1 "${realchat[@]}" doctor >"$work/checks" 2>/dev/null || true
for check in 'port kafka 127.0.0.1:1' 'kafka partitions'; do
  grep -qF "{\"check\":\"$check\",\"status\":\"fail\"" "$work/checks" ||
    wrong "doctor did not find what is wrong with $check: $(cat "$work/checks")"
done
refuses 3 'checks failed' "${realchat[@]}" --server http://127.0.0.1:1 doctor

#!/usr/bin/env bash
# Alert rules and the dashboard ask for metrics that there are.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

# A message for somebody who is not there: what is counted by kind is there from its first on.
unique=$(random_hex 4)
export REALCHAT_HOME=$work/home
for name in "mia-$unique" "noa-$unique"; do
  at "$REALCHAT_URL" "$name" register --password "password of $name" >/dev/null
done
conversation=$(at "$REALCHAT_URL" "mia-$unique" create --title Metrics --member "noa-$unique" | field conversation_id)
at "$REALCHAT_URL" "mia-$unique" send "$conversation" 'are you there?' >/dev/null

# The families that there are; some end as a series of a histogram does.
scrape() {
  while IFS= read -r url; do
    curl --silent --fail "$url/metrics"
  done < <(sed -n -E "s/^[A-Z_0-9]*ADMIN_URL='(.*)'/\1/p" "$REALCHAT_DIR/env") |
    sed -n -E 's/^# TYPE (realchat_[a-z_]+) .*/\1/p' | sed -E 's/_(total|bucket|sum|count)$//' |
    sort -u >"$work/families"
}
# The families that a file asks for and nobody has.
missing() { # FILE
  grep -o -E 'realchat_[a-z_]+' "$1" | sed -E 's/_(total|bucket|sum|count)$//' | sort -u |
    grep -v -x -F -f "$work/families" || true
}
has_all() { # FILE
  scrape
  [[ -z $(missing "$1") ]]
}

for file in "$ROOT"/monitoring/*; do
  asked=$(grep -c -E 'realchat_[a-z_]+' "$file")
  ((asked > 5)) || wrong "${file##*/} asks for $asked metrics"
  wait_until 30 has_all "$file" || wrong "${file##*/} asks for what nobody has: $(missing "$file" | tr '\n' ' ')"
done
echo 'rate(realchat_gateway_made_up_total[5m])' >"$work/planted"
[[ $(missing "$work/planted") == realchat_gateway_made_up ]] || wrong 'a metric that is made up is not missed'

# Each alert is told about.
while IFS= read -r alert; do
  grep -q -F "\`$alert\`" "$ROOT/docs/operations.md" || wrong "docs/operations.md does not tell of $alert"
done < <(sed -n -E 's/^ *- alert: //p' "$ROOT/monitoring/alerts.yaml")

# The example configurations are valid.
export REALCHAT_GATEWAY_LINK_SECRET='a secret of enough bytes' REALCHAT_CHATD_LINK_SECRET='a secret of enough bytes' \
  REALCHAT_PRESENCED_LINK_SECRET='a secret of enough bytes'
for daemon in gateway chatd relay presenced; do
  prints 'the configuration is valid' "$BINARIES/$daemon" --config "$ROOT/deploy/$daemon.toml" --check-config
done
say "$(wc -l <"$work/families") metrics; the rules, the dashboard and the examples fit them"

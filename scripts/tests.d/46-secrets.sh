#!/usr/bin/env bash
# No password, token or key of the stack is told in a log, a metric or a printed configuration.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
REALCHAT_HOME=$work/home
export REALCHAT_HOME
name=canary-$(random_hex 4)
password=canary-password-$(random_hex 16)

at "$REALCHAT_URL" "$name" register --password "$password" >/dev/null
token=$(at "$REALCHAT_URL" "$name" token | field access_token)
refresh=$(grep -rhoE '"refresh_token": ?"[^"]+"' "$REALCHAT_HOME" | head -n 1 | sed -E 's/.*"([^"]+)"$/\1/')
[[ -n $token && -n $refresh ]] || wrong "no tokens were found in $REALCHAT_HOME"

# Each where it belongs, where it is refused, and where it does not belong.
ask() { # ARGUMENTS...
  curl --silent --output /dev/null --max-time 2 "$@" || true
}
for header in "Bearer $token" "Bearer ${token}x" "Basic $token" "$token"; do
  ask --header "Authorization: $header" "$REALCHAT_URL/v1/conversations"
  ask --header "Authorization: $header" "$REALCHAT_URL/v1/events"
done
ask "$REALCHAT_URL/v1/conversations?access_token=$token"
ask "$REALCHAT_URL/v1/$token"
for protocol in "realchat.v1+json, realchat.token.$token" "realchat.token.$token" "$token"; do
  ask --http1.1 --header 'Connection: Upgrade' --header 'Upgrade: websocket' \
    --header 'Sec-WebSocket-Version: 13' --header 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' \
    --header "Sec-WebSocket-Protocol: $protocol" "$REALCHAT_URL/v1/connect"
done
for body in "{\"name\":\"$name\",\"password\":\"$password\"}" "{\"password\":\"$password\"" \
  "{\"refresh_token\":\"$refresh\"}" "{\"refresh_token\":\"$refresh"; do
  for path in login register refresh; do
    ask --header 'Content-Type: application/json' --data "$body" "$REALCHAT_URL/v1/$path"
    ask --header 'Content-Type: application/json' --data "$body" "$REALCHAT_URL/v1/auth/$path"
  done
done

# One secret a line, of the stack and of the person; by a part that nothing else has.
{
  printf '%s\n' "$password" "${token##*.}" "$refresh"
  sed -n -E 's/^secret = "(.*)"$/\1/p' "$REALCHAT_DIR"/config/*.toml
  sed -n -E 's|^DATABASE_URL=.*://[^:]*:([^@]*)@.*|\1|p; s|^REDIS_URL=.*://:([^@]*)@.*|\1|p' "$REALCHAT_DIR/env"
  sed -n 2p "$REALCHAT_DIR/secrets/signing.pem"
} | sort -u >"$work/secrets"
(($(wc -l <"$work/secrets") >= 7)) || wrong "only $(wc -l <"$work/secrets") secrets are looked for"
! grep -q -E '^.{0,11}$' "$work/secrets" || wrong 'a secret is too short to be looked for'

mkdir "$work/told"
cp -- "$REALCHAT_DIR"/logs/*.log "$work/told"
while IFS= read -r url; do
  curl --silent --fail "$url/metrics" >>"$work/told/metrics"
done < <(sed -n -E "s/^[A-Z_0-9]*ADMIN_URL='(.*)'/\1/p" "$REALCHAT_DIR/env")
for daemon in chatd gateway-1 relay presenced; do
  "$BINARIES/${daemon%-1}" --config "$REALCHAT_DIR/config/$daemon.toml" --print-config >"$work/told/$daemon.config"
done

found() {
  grep -l -F -f "$work/secrets" -r "$work/told" || true
}
[[ -z $(found) ]] || wrong "a secret is told in: $(found | sed "s|$work/told/||" | tr '\n' ' ')"
# The search finds what is there.
head -n 1 "$work/secrets" >"$work/told/planted"
[[ $(found) == *planted ]] || wrong 'a secret that was planted is not found'
say "$(wc -l <"$work/secrets") secrets are in none of $(find "$work/told" -type f | wc -l) files"

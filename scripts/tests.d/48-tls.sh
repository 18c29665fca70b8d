#!/usr/bin/env bash
# A gateway speaks TLS 1.3 and 1.2, takes another certificate on SIGHUP while sessions go on, and keeps the one
# it has where the other is none.
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
finish() {
  stop_beside
  if [[ -n $TAIL_PID ]]; then kill "$TAIL_PID" 2>/dev/null || true; fi
  rm -rf -- "$work"
}
trap finish EXIT
export REALCHAT_HOME=$work/home
port=$((${REALCHAT_URL##*:} + 39))

new_certificate() {
  mkdir -p "$work/logs"
  rm -rf -- "$work/tls"
  TLS=yes tls_prepare "$work"
}

handshake() { # OPTION...
  openssl s_client -connect "127.0.0.1:$port" -servername localhost "$@" </dev/null 2>&1 || true
}

# The fingerprint of a certificate on standard input.
fingerprint() {
  openssl x509 -noout -fingerprint -sha256 2>/dev/null || true
}

shown() { # FINGERPRINT
  [[ $(handshake | fingerprint) == "$1" ]]
}

logged() { # TEXT
  grep -q -F -- "$1" "$REALCHAT_DIR/logs/beside.log"
}

new_certificate
cp "$work/tls/certificate.pem" "$work/first.pem"
first=$(fingerprint <"$work/first.pem")
[[ -n $first ]] || wrong 'the certificate that was made is none'
start_beside "REALCHAT_GATEWAY_TLS_LISTEN=127.0.0.1:$port" \
  "REALCHAT_GATEWAY_TLS_CERTIFICATE=$work/tls/certificate.pem" "REALCHAT_GATEWAY_TLS_KEY=$work/tls/key.pem"
shown "$first" || wrong "the gateway shows another certificate than it was given: $(handshake | head -n 5)"
[[ $(handshake -tls1_3 -alpn h2,http/1.1) == *'ALPN protocol: http/1.1'* ]] || wrong 'no TLS 1.3 with http/1.1'
[[ $(handshake -tls1_2) == *'Protocol  : TLSv1.2'* ]] || wrong "no TLS 1.2: $(handshake -tls1_2 | tail -n 20)"
[[ $(handshake -tls1_1 -cipher 'ALL:@SECLEVEL=0') != *'Cipher    : ECDHE'* ]] || wrong 'TLS 1.1 is spoken'
[[ $(handshake -alpn h2) == *alert* ]] || wrong 'a client that speaks h2 alone is not refused'

secure=(--server "https://localhost:$port" --ca "$work/first.pem" --as "tls-$$")
"$BINARIES/realchat" "${secure[@]}" register --password correct-horse-tls >/dev/null
at "$REALCHAT_URL" "other-$$" register --password correct-horse-other >/dev/null
conversation=$("$BINARIES/realchat" "${secure[@]}" --json create --title Secure --member "other-$$" | field conversation_id)
"$BINARIES/realchat" "${secure[@]}" --json tail "$conversation" --from 1 --count 3 --seconds 60 >"$work/seen" &
TAIL_PID=$!
wait_until 20 has_lines "$work/seen" 1 || wrong 'the session over TLS is not there'

# A session that had to connect again would not believe what is shown now.
new_certificate
second=$(fingerprint <"$work/tls/certificate.pem")
[[ -n $second && $second != "$first" ]] || wrong 'the second certificate is no other'
kill -HUP "$BESIDE_PID"
wait_until 10 shown "$second" || wrong "the new certificate is not shown: $(tail -n 3 "$REALCHAT_DIR/logs/beside.log")"
at "$REALCHAT_URL" "other-$$" send "$conversation" 'after the change' >/dev/null
wait_until 20 has_lines "$work/seen" 2 || wrong 'the session did not outlive the change of the certificate'

printf 'not a certificate\n' >"$work/tls/certificate.pem"
kill -HUP "$BESIDE_PID"
wait_until 10 logged "$work/tls/certificate.pem" || wrong "the log does not name the bad file: $(tail -n 3 "$REALCHAT_DIR/logs/beside.log")"
shown "$second" || wrong 'a bad certificate took the place of the good one'
at "$REALCHAT_URL" "other-$$" send "$conversation" 'after the mistake' >/dev/null
wait "$TAIL_PID" || wrong "tail ended with $?"
TAIL_PID=''
has_lines "$work/seen" 3 || wrong "the session saw $(cat "$work/seen")"
say 'TLS 1.2 and 1.3, and another certificate without a session lost'

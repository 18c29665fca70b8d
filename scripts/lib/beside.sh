# shellcheck shell=bash
# One more gateway beside those of the stack of REALCHAT_DIR, configured as they are but for what a
# test wants otherwise.

BESIDE_PID=''
BESIDE_URL=''
BESIDE_ADMIN_URL=''

# Starts it and waits until it is ready. LISTEN: the address, where it is not loopback.
start_beside() { # NAME=VALUE...
  local first_port=${REALCHAT_URL##*:}
  BESIDE_URL=http://127.0.0.1:$((first_port + 9))
  BESIDE_ADMIN_URL=http://127.0.0.1:$((first_port + 19))
  env REALCHAT_GATEWAY_INSTANCE=beside "REALCHAT_GATEWAY_LISTEN=${LISTEN:-127.0.0.1}:$((first_port + 9))" \
    "REALCHAT_GATEWAY_ADMIN_LISTEN=127.0.0.1:$((first_port + 19))" REALCHAT_GATEWAY_TLS_LISTEN= "$@" \
    "$BINARIES/gateway" --config "$REALCHAT_DIR/config/gateway-1.toml" \
    >"$REALCHAT_DIR/logs/beside.log" 2>&1 </dev/null &
  BESIDE_PID=$!
  local tries
  for ((tries = 0; tries < 300; tries++)); do
    if curl --silent --fail --max-time 2 "$BESIDE_ADMIN_URL/readyz" >/dev/null; then return 0; fi
    kill -0 "$BESIDE_PID" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 3 -- "$REALCHAT_DIR/logs/beside.log" >&2
  return 1
}

stop_beside() {
  if [[ -n $BESIDE_PID ]]; then
    kill "$BESIDE_PID" 2>/dev/null || true
    wait "$BESIDE_PID" 2>/dev/null || true
    BESIDE_PID=''
  fi
}

# The value of a counter or gauge, all its labels together.
metric_of() { # ADMIN_URL NAME
  curl --silent --fail --max-time 5 "$1/metrics" |
    awk -v name="$2" '{ split($1, at, "{") } at[1] == name { total += $2 } END { print total + 0 }'
}

# What a process has used of the processor, in ms.
cpu_ms() { # PID
  awk -v ticks="$(getconf CLK_TCK)" '{ print int(($14 + $15) * 1000 / ticks) }' "/proc/$1/stat"
}

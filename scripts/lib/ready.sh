# shellcheck shell=bash
# Waiting for parts, and saying why one does not come.

READY_S_MAX=60
# A part that ends this often while it is waited for will not come.
READY_RESTARTS_MAX=7

# Waits until a part is ready, or says which is not, why, and what it logged last.
wait_ready() { # DIR NAME
  local dir=$1 name=$2 since=$SECONDS stolen before reason=''
  stolen=$(stolen_s)
  before=$(part_restarts "$dir" "$name")
  until reason=$(part_probe "$dir" "$name"); do
    if (($(part_restarts "$dir" "$name") - before >= READY_RESTARTS_MAX)); then
      not_ready "$dir" "$name" "it ended $READY_RESTARTS_MAX times"
    fi
    ! is_over "$READY_S_MAX" "$since" "$stolen" || not_ready "$dir" "$name" "after $READY_S_MAX s: $reason"
    sleep 0.1
  done
}

bot_is_live() { # DIR
  grep -q -e '-- live' "$1/logs/bot.log" 2>/dev/null
}

wait_bot() { # DIR
  wait_until 40 bot_is_live "$1" || not_ready "$1" bot 'it has not signed in after 40 s'
}

not_ready() { # DIR NAME WHY
  local log=$1/logs/$2.log
  printf 'The last lines of %s:\n' "$log" >&2
  tail -n 8 -- "$log" 2>/dev/null | cut -c 1-400 | sed 's/^/  /' >&2 || true
  fail "$2 is not ready: $3"
}

# shellcheck shell=bash
# Redis in DIR/redis, in memory alone: all it holds is rebuilt from heartbeats.

redis_password() { # DIR
  secret "$1" redis
}

redis_url() { # DIR PORT
  printf 'redis://:%s@127.0.0.1:%s/' "$(redis_password "$1")" "$2"
}

redis_prepare() { # DIR
  local dir=$1
  mkdir -p -- "$dir/redis"
  write_private "$dir/redis/redis.conf" <<END
bind 127.0.0.1
port $(part_port redis)
requirepass $(redis_password "$dir")
dir .
save ""
appendonly no
daemonize no
END
}

redis_start() { # DIR
  start_part "$1" redis --cwd "$1/redis" -- "$(command -v redis-server)" redis.conf
}

# Says why it is not ready, or succeeds.
redis_probe() { # DIR PORT
  local answer
  answer=$(tcp_ask "$2" "AUTH $(redis_password "$1")"$'\r\nPING\r\nQUIT\r\n')
  [[ $answer != *PONG* ]] || return 0
  answer=${answer%%$'\r'*}
  printf '%s' "${answer:-no answer}"
  return 1
}

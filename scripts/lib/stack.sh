# shellcheck shell=bash
# A stack: its settings, its parts in the order in which they start, their ports and their health.
#
# The settings of a stack are the variables below; DIR/settings keeps them from one start to the
# next. An empty URL means that the stack runs that part itself.

SETTINGS=(PORT_BASE GATEWAYS ROUTED BROKERS TLS POSTGRES_URL KAFKA_BROKERS REDIS_URL)
declare -A DEFAULTS=(
  [PORT_BASE]=$PORT_BASE_DEFAULT [GATEWAYS]=1 [ROUTED]='' [BROKERS]=1 [TLS]='' [POSTGRES_URL]=''
  [KAFKA_BROKERS]='' [REDIS_URL]=''
)
declare -A OPTIONS=(
  [PORT_BASE]=--port-base [GATEWAYS]=--gateways [ROUTED]=--routed [BROKERS]=--brokers
  [TLS]=--tls [POSTGRES_URL]=--postgres [KAFKA_BROKERS]=--kafka [REDIS_URL]=--redis
)
PORT_BASE=${DEFAULTS[PORT_BASE]}
GATEWAYS=${DEFAULTS[GATEWAYS]}
# Not empty: each gateway has a topic of its own instead of tailing the conversations' logs.
ROUTED=${DEFAULTS[ROUTED]}
# Of the stack's own Kafka.
BROKERS=${DEFAULTS[BROKERS]}
# Not empty: the gateways speak TLS, too.
TLS=${DEFAULTS[TLS]}
POSTGRES_URL=${DEFAULTS[POSTGRES_URL]}
KAFKA_BROKERS=${DEFAULTS[KAFKA_BROKERS]}
REDIS_URL=${DEFAULTS[REDIS_URL]}

load_settings() { # DIR
  local name
  # An empty file is that of a stack that never came up: the defaults hold.
  [[ -s $1/settings ]] || return 0
  for name in "${SETTINGS[@]}"; do
    printf -v "$name" '%s' "$(env_get "$1/settings" "$name")"
  done
}

save_settings() { # DIR
  local name
  for name in "${SETTINGS[@]}"; do
    printf '%s=%s\n' "$name" "$(quoted "${!name}")"
  done | write_private "$1/settings"
}

# A random secret of the stack, made when it is first asked for.
secret() { # DIR NAME
  local file=$1/secrets/$2
  if [[ ! -s $file ]]; then
    (umask 077 && mkdir -p -- "$1/secrets")
    random_hex 32 | write_private "$file"
  fi
  cat -- "$file"
}

# The parts that the stack runs itself, the bot aside, in the order in which they start.
stack_parts() {
  local number
  [[ -n $POSTGRES_URL ]] || printf 'postgres\n'
  [[ -n $REDIS_URL ]] || printf 'redis\n'
  [[ -n $KAFKA_BROKERS ]] || broker_parts
  printf '%s\n' chatd relay presenced
  for ((number = 1; number <= GATEWAYS; number++)); do printf 'gateway-%s\n' "$number"; done
}

# Kafka's nodes: kafka, and kafka-2, kafka-3 where there are several.
broker_parts() {
  local number
  printf 'kafka\n'
  for ((number = 2; number <= BROKERS; number++)); do printf 'kafka-%s\n' "$number"; done
}

# The ports that a part listens on; the first is the one that others use.
part_ports() { # NAME
  case $1 in
    gateway-*)
      echo $((PORT_BASE + ${1#*-} - 1)) ${TLS:+"$(tls_port "$1")"} $((PORT_BASE + 9 + ${1#*-}))
      ;;
    chatd) echo $((PORT_BASE + 20)) $((PORT_BASE + 21)) ;;
    presenced) echo $((PORT_BASE + 22)) $((PORT_BASE + 23)) ;;
    relay) echo $((PORT_BASE + 24)) ;;
    postgres) echo $((PORT_BASE + 25)) ;;
    redis) echo $((PORT_BASE + 26)) ;;
    kafka) echo $((PORT_BASE + 27)) $((PORT_BASE + 28)) ;;
    kafka-*) echo $((PORT_BASE + 36 + 2 * ${1#*-})) $((PORT_BASE + 37 + 2 * ${1#*-})) ;;
  esac
}

tls_port() { # GATEWAY
  printf '%s' $((PORT_BASE + 29 + ${1#*-}))
}

part_port() { # NAME
  local ports
  ports=$(part_ports "$1")
  printf '%s' "${ports%% *}"
}

# The port of /healthz, /readyz and /metrics: a daemon's last.
admin_port() { # NAME
  local ports
  ports=$(part_ports "$1")
  printf '%s' "${ports##* }"
}

database_url() { # DIR
  printf '%s' "${POSTGRES_URL:-$(postgres_url "$1" "$(part_port postgres)")}"
}

redis_url_in_use() { # DIR
  printf '%s' "${REDIS_URL:-$(redis_url "$1" "$(part_port redis)")}"
}

kafka_brokers() {
  local name list=$KAFKA_BROKERS
  if [[ -z $list ]]; then
    while IFS= read -r name; do list+="${list:+,}127.0.0.1:$(part_port "$name")"; done < <(broker_parts)
  fi
  printf '%s' "$list"
}

# Succeeds if the part does its job, else prints why it does not.
part_probe() { # DIR NAME
  local dir=$1 name=$2 body
  part_pid "$dir" "$name" >/dev/null || { printf 'it does not run'; return 1; }
  case $name in
    postgres) postgres_probe "$(part_port postgres)" ;;
    redis) redis_probe "$dir" "$(part_port redis)" ;;
    kafka | kafka-*) can_connect "$(part_port "$name")" || { printf 'it does not listen yet'; return 1; } ;;
    bot) return 0 ;;
    *)
      body=$(http_get "$(admin_port "$name")" /readyz) && return 0
      body=${body%$'\n'}
      printf '%s' "${body:+${body//$'\n'/; }}"
      [[ -n $body ]] || printf '/readyz does not answer'
      return 1
      ;;
  esac
}

part_is_ready() { # DIR NAME
  part_probe "$1" "$2" >/dev/null
}

# What DIR/env holds: where everything is, and the processes that run now. The supervisors keep the
# process ids current.
env_pairs() { # DIR
  local dir=$1 number name pid urls=''
  for ((number = 0; number < GATEWAYS; number++)); do
    urls+="${urls:+ }http://127.0.0.1:$((PORT_BASE + number))"
  done
  printf '%s %s\n' \
    REALCHAT_URL "http://127.0.0.1:$PORT_BASE" \
    REALCHAT_WS "ws://127.0.0.1:$PORT_BASE/v1/connect" \
    REALCHAT_URLS "$urls" \
    REALCHAT_DIR "$dir" \
    REALCHAT_SIGNING_KEY "$dir/secrets/signing.pem" \
    DATABASE_URL "$(database_url "$dir")" \
    KAFKA_BROKERS "$(kafka_brokers)" \
    REDIS_URL "$(redis_url_in_use "$dir")"
  if [[ -n $TLS ]]; then
    urls=''
    for ((number = 1; number <= GATEWAYS; number++)); do
      urls+="${urls:+ }https://localhost:$(tls_port "gateway-$number")"
    done
    printf '%s %s\n' REALCHAT_TLS_URLS "$urls" REALCHAT_CA_FILE "$dir/tls/certificate.pem"
  fi
  while IFS= read -r name; do
    if [[ $name =~ ^(chatd|relay|presenced|gateway-.*)$ ]]; then
      printf '%s_ADMIN_URL http://127.0.0.1:%s\n' "$(env_prefix "$name")" "$(admin_port "$name")"
    fi
  done < <(stack_parts)
  while IFS= read -r name; do
    if pid=$(part_pid "$dir" "$name"); then printf '%s_PID %s\n' "$(env_prefix "$name")" "$pid"; fi
  done < <(recorded_parts "$dir")
}

write_env() { # DIR
  env_locked "$1/env" env_replace "$1/env" env_pairs "$1"
}

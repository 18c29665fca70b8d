# shellcheck shell=bash
# The four daemons and the bot: their configuration files in DIR/config and their start.

toml_string() { # TEXT
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

# A,B as a TOML array.
toml_list() { # TEXT
  local item list=''
  local -a items
  IFS=, read -ra items <<<"$1"
  for item in "${items[@]}"; do list+="${list:+, }$(toml_string "$item")"; done
  printf '[%s]' "$list"
}

common_config() { # NAME
  printf '# Written by scripts/up at every start.\n'
  printf 'instance = %s\n' "$(toml_string "$1")"
  printf '[admin]\nlisten = "127.0.0.1:%s"\n' "$(admin_port "$1")"
}

chatd_config() { # DIR
  common_config chatd
  printf '[link]\nlisten = "127.0.0.1:%s"\n' "$(part_port chatd)"
  printf 'secret = %s\n' "$(toml_string "$(secret "$1" link)")"
  printf '[postgres]\nurl = %s\n' "$(toml_string "$(database_url "$1")")"
  printf '[tokens]\nsigning_key = %s\n' "$(toml_string "$1/secrets/signing.pem")"
}

relay_config() { # DIR
  common_config relay
  printf '[postgres]\nurl = %s\n' "$(toml_string "$(database_url "$1")")"
  printf '[redis]\nurl = %s\n' "$(toml_string "$(redis_url_in_use "$1")")"
  printf '[kafka]\nbrokers = %s\n' "$(toml_list "$(kafka_brokers)")"
  if [[ -z $KAFKA_BROKERS ]]; then printf 'replication = %s\n' "$BROKERS"; fi
}

presenced_config() { # DIR
  common_config presenced
  printf '[link]\nlisten = "127.0.0.1:%s"\n' "$(part_port presenced)"
  printf 'secret = %s\n' "$(toml_string "$(secret "$1" link)")"
  printf '[redis]\nurl = %s\n' "$(toml_string "$(redis_url_in_use "$1")")"
  printf '[kafka]\nbrokers = %s\n' "$(toml_list "$(kafka_brokers)")"
}

# All of a stack's clients, load generators among them, come from this machine's few addresses: so
# limits by address are off, and a user may do more than people do.
gateway_config() { # DIR NAME
  printf 'listen = ["127.0.0.1:%s"]\ndrain_ms = 2000\n' "$(part_port "$2")"
  common_config "$2"
  if [[ -n $TLS ]]; then
    printf '[tls]\nlisten = ["127.0.0.1:%s"]\ncertificate = %s\nkey = %s\n' "$(tls_port "$2")" \
      "$(toml_string "$1/tls/certificate.pem")" "$(toml_string "$1/tls/key.pem")"
  fi
  printf '[limits]\nconnections_per_address = 0\nconnects_per_address_per_s = 0\n'
  printf 'requests_per_address_per_s = 0\nframes_per_user_per_s = 5000\n'
  printf '[link]\nsecret = %s\n' "$(toml_string "$(secret "$1" link)")"
  printf '[chatd]\nlink = "127.0.0.1:%s"\n' "$(part_port chatd)"
  printf '[presenced]\nlink = "127.0.0.1:%s"\n' "$(part_port presenced)"
  printf '[kafka]\nbrokers = %s\n' "$(toml_list "$(kafka_brokers)")"
  if [[ -n $ROUTED ]]; then
    printf 'routing = "routed"\n[redis]\nurl = %s\n' "$(toml_string "$(redis_url_in_use "$1")")"
  fi
}

# A certificate for this machine that signs itself, unless the folder has one already.
tls_prepare() { # DIR
  local folder=$1/tls log=$1/logs/tls.log
  [[ -n $TLS && ! -s $folder/certificate.pem ]] || return 0
  (umask 077 && mkdir -p -- "$folder")
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 3650 \
    -config <(printf '%s\n' '[req]' 'distinguished_name=name' 'x509_extensions=extensions' 'prompt=no' \
      '[name]' 'CN=localhost' '[extensions]' 'basicConstraints=critical,CA:FALSE' \
      'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:0:0:0:0:0:0:0:1') \
    -keyout "$folder/key.pem" -out "$folder/certificate.pem" </dev/null >"$log" 2>&1 ||
    fail "no certificate could be made: $(tail -n 1 -- "$log"); see $log"
}

# Writes a daemon's file and lets the daemon itself check it.
write_config() { # DIR NAME
  local dir=$1 name=$2 file=$1/config/$2.toml error
  mkdir -p -- "$dir/config"
  case $name in
    gateway-*) gateway_config "$dir" "$name" ;;
    *) "${name}_config" "$dir" ;;
  esac | write_private "$file"
  error=$("$(daemon_binary "$name")" --config "$file" --check-config 2>&1 >/dev/null) ||
    fail "${error:-$name refuses its configuration}"
}

daemon_binary() { # NAME
  printf '%s/%s' "$BINARIES" "${1%%-*}"
}

daemon_start() { # DIR NAME
  local dir=$1 name=$2
  start_part "$dir" "$name" --cwd "$dir" -- \
    "$(daemon_binary "$name")" --config "$dir/config/$name.toml"
}

migrate() { # DIR
  local log=$1/logs/migrate.log
  "$BINARIES/chatd" --config "$1/config/chatd.toml" migrate </dev/null >"$log" 2>&1 ||
    fail "the database could not be migrated: $(tail -n 1 -- "$log"); see $log"
}

# Makes the people and their conversation if they are not there, and prints fresh codes as JSON.
seed() { # DIR
  local log=$1/logs/seed.log
  "$BINARIES/chatd" --config "$1/config/chatd.toml" seed </dev/null 2>"$log" ||
    fail "the first people could not be made: $(tail -n 1 -- "$log"); see $log"
}

# The one-time code of a person in what `seed` printed.
seed_code() { # NAME JSON
  local object
  while IFS= read -r object; do
    if [[ $object =~ \"name\":[[:space:]]*\"$1\" && $object =~ \"code\":[[:space:]]*\"([^\"]+)\" ]]; then
      printf '%s' "${BASH_REMATCH[1]}"
      return 0
    fi
  done < <(tr -d '\n' <<<"$2" | tr '{' '\n' | tr '}' '\n')
  fail "chatd seed printed no code for $1"
}

# The code is used once; later the bot has tokens of its own.
bot_start() { # DIR CODE
  local number urls=''
  (umask 077 && mkdir -p -- "$1/bot")
  for ((number = 0; number < GATEWAYS; number++)); do
    urls+="${urls:+,}http://127.0.0.1:$((PORT_BASE + number))"
  done
  rm -f -- "$1/logs/bot.log"
  start_part "$1" bot --cwd "$1/bot" --grace 5 -- env "REALCHAT_HOME=$1/bot" \
    "$BINARIES/realchat" --server "$urls" bot --code="$2"
}

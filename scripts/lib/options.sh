# shellcheck shell=bash
# The command line of scripts/up: it sets DIR, BARE and GIVEN, the settings that were asked for.

# Sets OPTION and VALUE from --option value or --option=value; CONSUMED words were taken.
take_value() { # WORD...
  OPTION=${1%%=*}
  CONSUMED=1
  if [[ $1 == *=* ]]; then
    VALUE=${1#*=}
  else
    (($# >= 2)) || fail_usage "$1 needs a value"
    VALUE=$2 CONSUMED=2
  fi
  [[ -n $VALUE ]] || fail_usage "$OPTION needs a value that is not empty"
}

parse() { # WORD...
  while (($# > 0)); do
    case $1 in
      -h | --help) usage && exit 0 ;;
      --bare) BARE=1 && shift && continue ;;
      --tls) GIVEN[TLS]=yes && shift && continue ;;
      --routed) GIVEN[ROUTED]=yes && shift && continue ;;
      --dir | --dir=* | --port-base | --port-base=* | --gateways | --gateways=*) take_value "$@" ;;
      --brokers | --brokers=*) take_value "$@" ;;
      --postgres | --postgres=* | --kafka | --kafka=* | --redis | --redis=*) take_value "$@" ;;
      *) fail_usage "unknown option '$1'; try scripts/up --help" ;;
    esac
    shift "$CONSUMED"
    case $OPTION in
      --dir) DIR=$VALUE ;;
      --port-base)
        check_number --port-base "$VALUE" "$PORT_BASE_MIN" "$PORT_BASE_MAX"
        GIVEN[PORT_BASE]=$((10#$VALUE))
        ;;
      --gateways)
        check_number --gateways "$VALUE" 1 "$GATEWAYS_MAX"
        GIVEN[GATEWAYS]=$((10#$VALUE))
        ;;
      --brokers)
        [[ $VALUE == 1 || $VALUE == 3 ]] ||
          fail_usage "--brokers is '$VALUE', but 1 or 3 is required"
        GIVEN[BROKERS]=$VALUE
        ;;
      --postgres) GIVEN[POSTGRES_URL]=$(check_scheme "$OPTION" "$VALUE" postgres postgresql) ;;
      --redis) GIVEN[REDIS_URL]=$(check_scheme "$OPTION" "$VALUE" redis rediss unix) ;;
      --kafka) GIVEN[KAFKA_BROKERS]=$(check_brokers "$VALUE") ;;
    esac
  done
  [[ ! -v "GIVEN[BROKERS]" || ! -v "GIVEN[KAFKA_BROKERS]" ]] ||
    fail_usage '--brokers is for a Kafka of the stack, but --kafka names another'
  DIR=$(absolute_path "$DIR")
}

check_scheme() { # OPTION VALUE SCHEME...
  local option=$1 value=$2 scheme
  shift 2
  for scheme in "$@"; do
    if [[ $value == "$scheme://"?* ]]; then
      printf '%s' "$value"
      return 0
    fi
  done
  fail_usage "$option is '$value', but a URL that begins with $1:// is required"
}

check_brokers() { # VALUE
  [[ $1 =~ ^[^,:/[:space:]]+:[0-9]+(,[^,:/[:space:]]+:[0-9]+)*$ ]] ||
    fail_usage "--kafka is '$1', but HOST:PORT, or several separated by commas, is required"
  printf '%s' "$1"
}

# shellcheck shell=bash
# Kafka: one node, or three that each hold everything, each a broker and a controller. A node's folder is
# DIR/NAME, its name kafka, kafka-2 or kafka-3.

KAFKA_VERSION=4.3.1
JAVA_VERSION_MIN=17
# A small heap, half of it for what lives a moment, so that it is collected seldom, by several threads, so
# that it stops for a moment: shorter collections came so often that they were the 99th percentile of
# everybody's latency, and those of one thread took 30 ms. The quick compiler: a stack of one node on a machine
# with other work to do. The log tells of warnings and of the broker's own life, not of each of its partitions.
KAFKA_JVM=(
  -Xmx512m -Xms320m -Xmn160m -XX:+UseG1GC -XX:TieredStopAtLevel=1 -XX:+ExitOnOutOfMemoryError
  -Djava.awt.headless=true
  -Dorg.slf4j.simpleLogger.defaultLogLevel=warn
  -Dorg.slf4j.simpleLogger.log.kafka.server.BrokerServer=info
  -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info
  -Dorg.slf4j.simpleLogger.log.org.apache.kafka.server.BrokerLifecycleManager=info
  -Dorg.slf4j.simpleLogger.showDateTime=true
  "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS"
  -Dorg.slf4j.simpleLogger.showThreadName=false
)

# Where the jars are: an installed Kafka's, or a cache shared by all stacks.
kafka_libs() {
  if [[ -n ${KAFKA_HOME:-} ]]; then
    printf '%s/libs' "$KAFKA_HOME"
  else
    printf '%s/realchat/kafka-%s' "${XDG_CACHE_HOME:-${HOME:-$ROOT/target}/.cache}" "$KAFKA_VERSION"
  fi
}

kafka_has_libs() {
  compgen -G "$(kafka_libs)/kafka_*.jar" >/dev/null
}

kafka_download() {
  local libs lock
  ! kafka_has_libs || return 0
  [[ -z ${KAFKA_HOME:-} ]] || fail "KAFKA_HOME is $KAFKA_HOME, but $(kafka_libs) holds no Kafka"
  libs=$(kafka_libs) lock=$libs.lock
  mkdir -p -- "$(dirname -- "$libs")"
  (
    flock -w 600 7 || fail "another download holds $lock"
    ! kafka_has_libs || exit 0
    say "Downloading Kafka $KAFKA_VERSION with Maven (44 MB)."
    rm -rf -- "$libs" "$libs.new"
    mvn -q -B -f "$SCRIPTS/kafka/pom.xml" dependency:copy-dependencies \
      "-DoutputDirectory=$libs.new" </dev/null >"$libs.log" 2>&1 ||
      fail "Kafka could not be downloaded: $(grep -m 1 ERROR "$libs.log" | cut -c 1-300); see $libs.log, or set KAFKA_HOME"
    mv -- "$libs.new" "$libs"
    kafka_archive || say "Kafka will start more slowly: its classes could not be archived."
  ) 7>"$lock"
}

# Starts a broker once and lets the JVM keep the classes that it loaded: this halves the time that
# every later start takes.
kafka_archive() {
  local work java status=0
  work=$(mktemp -d) || return 1
  PORT_BASE=$(free_port_base) BROKERS=1 kafka_settings kafka >"$work/server.properties"
  (cd -- "$work" && kafka_format server.properties) >/dev/null 2>&1 || status=1
  if ((status == 0)); then
    (cd -- "$work" && exec java "${KAFKA_JVM[@]}" "-XX:ArchiveClassesAtExit=$work/kafka.jsa" \
      -cp "$(kafka_libs)/*" kafka.Kafka server.properties) </dev/null >"$work/log" 2>&1 7>&- 9>&- &
    java=$!
    wait_until 60 grep -q 'Kafka Server started' "$work/log" || status=1
    kill "$java" 2>/dev/null || true
    wait_until 60 test ! -e "/proc/$java/fd/0" || kill -KILL "$java" 2>/dev/null || true
    wait "$java" 2>/dev/null || true
    mv -- "$work/kafka.jsa" "$(kafka_libs)/kafka.jsa" 2>/dev/null || status=1
  fi
  rm -rf -- "$work"
  return "$status"
}

kafka_java_version() {
  java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1
}

kafka_node() { # NAME
  if [[ $1 == kafka ]]; then printf 1; else printf '%s' "${1#kafka-}"; fi
}

kafka_settings() { # NAME
  local broker controller name port voters=''
  read -r broker controller < <(part_ports "$1")
  while IFS= read -r name; do
    read -r _ port < <(part_ports "$name")
    voters+="${voters:+,}$(kafka_node "$name")@127.0.0.1:$port"
  done < <(broker_parts)
  # Of three nodes one may be away.
  sed -e "s/@BROKER_PORT@/$broker/g" -e "s/@CONTROLLER_PORT@/$controller/g" \
    -e "s/@NODE@/$(kafka_node "$1")/g" -e "s/@VOTERS@/$voters/g" -e "s/@REPLICAS@/$BROKERS/g" \
    -e "s/@REPLICAS_MIN@/$(((BROKERS + 1) / 2))/g" "$SCRIPTS/kafka/server.properties"
}

# A cluster id is 16 bytes in base64, which may hold neither + nor /.
kafka_new_id() {
  head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d '='
}

kafka_format() { # SETTINGS_FILE [CLUSTER_ID]
  local id=${2:-$(kafka_new_id)}
  java -Xmx128m -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
    -cp "$(kafka_libs)/*" kafka.tools.StorageTool format -t "$id" -c "$1"
}

# The storage is formatted once: formatting gives it the id of its cluster, which the first node chooses.
kafka_prepare() { # DIR NAME
  local dir=$1 name=$2 log=$1/logs/$2-format.log id
  mkdir -p -- "$dir/$name"
  kafka_settings "$name" >"$dir/$name/server.properties"
  [[ ! -f $dir/$name/data/meta.properties ]] || return 0
  id=$(sed -n 's/^cluster.id=//p' "$dir/kafka/data/meta.properties" 2>/dev/null) || true
  (cd -- "$dir/$name" && kafka_format server.properties "$id") >"$log" 2>&1 ||
    fail "Kafka's storage could not be formatted: $(tail -n 1 -- "$log"); see $log"
}

kafka_start() { # DIR NAME
  local -a archive=()
  # The last one of several waits in vain for the others while it ends.
  local grace=$((BROKERS > 1 ? 8 : 30))
  if [[ -f $(kafka_libs)/kafka.jsa ]]; then
    archive=("-XX:SharedArchiveFile=$(kafka_libs)/kafka.jsa" -Xshare:auto)
  fi
  start_part "$1" "$2" --cwd "$1/$2" --grace "$grace" -- "$(command -v java)" "${KAFKA_JVM[@]}" \
    "${archive[@]}" -cp "$(kafka_libs)/*" kafka.Kafka server.properties
}

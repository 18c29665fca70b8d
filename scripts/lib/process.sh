# shellcheck shell=bash
# Parts as processes: each is the child of a supervisor (scripts/supervise), and both are known by
# process id and start time, so that a process id used again by a stranger is never mistaken.
#
# DIR/pids/NAME.pid       the part's process id, for people
# DIR/pids/NAME.identity  boot id, supervisor's id and start, part's id and start, restarts, stop signal

# When a process started, in clock ticks since boot; fails if it is gone or a zombie.
process_start() { # PID
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  local -a fields
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != Z && ${fields[0]} != X ]] || return 1
  printf '%s' "${fields[19]}"
}

is_alive() { # PID START
  [[ $1 != 0 && $(process_start "$1") == "$2" ]]
}

boot_id() {
  cat /proc/sys/kernel/random/boot_id
}

# Reads a part's identity into the variables supervisor, supervisor_start, child, child_start,
# restarts and stop_signal of the caller; fails if there is none of this boot.
read_identity() { # DIR NAME
  local boot
  supervisor=0 supervisor_start=0 child=0 child_start=0 restarts=0 stop_signal=TERM
  { read -r boot supervisor supervisor_start child child_start restarts stop_signal \
    <"$1/pids/$2.identity"; } 2>/dev/null || return 1
  [[ $boot == "$(boot_id)" ]]
}

part_is_supervised() { # DIR NAME
  local supervisor supervisor_start child child_start restarts stop_signal
  read_identity "$1" "$2" && is_alive "$supervisor" "$supervisor_start"
}

# The part's process id if it lives now.
part_pid() { # DIR NAME
  local supervisor supervisor_start child child_start restarts stop_signal
  read_identity "$1" "$2" && is_alive "$child" "$child_start" && printf '%s' "$child"
}

part_restarts() { # DIR NAME
  local supervisor supervisor_start child child_start restarts stop_signal
  read_identity "$1" "$2" || true
  printf '%s' "$restarts"
}

# A part whose supervisor was killed runs on without one.
part_is_orphan() { # DIR NAME
  ! part_is_supervised "$1" "$2" && part_pid "$1" "$2" >/dev/null
}

# Starts a part under a supervisor that survives this script and its terminal. Descriptors 7 to 9
# are locks, which must not live on in it.
start_part() { # DIR NAME [OPTION...] -- COMMAND...
  local dir=$1 name=$2
  shift 2
  rm -f -- "$dir/pids/$name.identity" "$dir/pids/$name.pid"
  setsid "$SCRIPTS/supervise" "$name" "$dir" "$@" </dev/null >/dev/null 2>&1 7>&- 8>&- 9>&- &
  disown
  wait_until 20 part_is_supervised "$dir" "$name" ||
    fail "$name could not be started; see $dir/logs/$name.log"
}

# Asks a part to end; wait_part_gone waits for it.
signal_part() { # DIR NAME
  local supervisor supervisor_start child child_start restarts stop_signal
  read_identity "$1" "$2" || return 0
  if is_alive "$supervisor" "$supervisor_start"; then
    kill -TERM "$supervisor" 2>/dev/null || true
  elif is_alive "$child" "$child_start"; then
    kill -s "$stop_signal" "$child" 2>/dev/null || true
    kill -CONT "$child" 2>/dev/null || true
  fi
}

part_is_gone() { # DIR NAME
  ! part_is_supervised "$1" "$2" && ! part_pid "$1" "$2" >/dev/null
}

# Waits for a part that was asked to end, and ends it by force when its time is over.
wait_part_gone() { # DIR NAME
  local dir=$1 name=$2 supervisor supervisor_start child child_start restarts stop_signal
  if ! wait_until 40 part_is_gone "$dir" "$name" && read_identity "$dir" "$name"; then
    ! is_alive "$supervisor" "$supervisor_start" || kill -KILL "$supervisor" 2>/dev/null || true
    ! is_alive "$child" "$child_start" || kill -KILL "$child" 2>/dev/null || true
    wait_until 10 part_is_gone "$dir" "$name" || fail "$name (process $child) cannot be ended"
  fi
  rm -f -- "$dir/pids/$name.identity" "$dir/pids/$name.pid" "$dir/pids/$name.lock"
}

# The parts that have left a trace in DIR, whether they run or not.
recorded_parts() { # DIR
  local file
  for file in "$1"/pids/*.identity; do
    [[ -e $file ]] || continue
    file=${file##*/}
    printf '%s\n' "${file%.identity}"
  done
}

# Stops parts in stages: whoever uses another part ends before it.
stop_parts() { # DIR NAME...
  local dir=$1 stage name
  shift
  for stage in 'bot gateway' 'relay presenced' 'chatd' 'kafka redis' 'postgres'; do
    local -a chosen=()
    for name in "$@"; do
      [[ " $stage " != *" ${name%%-*} "* ]] || chosen+=("$name")
    done
    for name in "${chosen[@]}"; do signal_part "$dir" "$name"; done
    for name in "${chosen[@]}"; do wait_part_gone "$dir" "$name"; done
  done
}

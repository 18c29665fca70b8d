# shellcheck shell=bash
# DIR/env and DIR/settings: lines KEY='value' that a shell can source, changed in one step.

quoted() { # VALUE
  printf "'%s'" "${1//\'/\'\\\'\'}"
}

# Runs a command alone among all writers of such a file.
env_locked() { # FILE COMMAND...
  local file=$1
  shift
  (
    flock -w 30 7 || exit 1
    "$@"
  ) 7>>"$file.lock"
}

# Sets keys in such a file, keeping the other lines; under the lock.
env_put() { # FILE KEY VALUE [KEY VALUE]...
  env_merge "$@" | write_private "$1"
}

# Makes such a file anew from what a command prints (KEY VALUE, one a line); under the lock.
env_replace() { # FILE COMMAND...
  local file=$1 key value
  shift
  "$@" | while IFS=' ' read -r key value; do
    printf '%s=%s\n' "$key" "$(quoted "$value")"
  done | write_private "$file"
}

# The file's lines with the given keys replaced where they are, or added at the end.
env_merge() { # FILE KEY VALUE [KEY VALUE]...
  local file=$1 line key
  shift
  local -A values=()
  local -a order=()
  while (($# > 0)); do
    values[$1]=$2
    order+=("$1")
    shift 2
  done
  if [[ -f $file ]]; then
    while IFS= read -r line; do
      key=${line%%=*}
      if [[ -v "values[$key]" ]]; then
        line="$key=$(quoted "${values[$key]}")"
        unset "values[$key]"
      fi
      printf '%s\n' "$line"
    done <"$file"
  fi
  for key in "${order[@]}"; do
    [[ -v "values[$key]" ]] || continue
    printf '%s=%s\n' "$key" "$(quoted "${values[$key]}")"
    unset "values[$key]"
  done
}

# One value of such a file; nothing if it is not there.
env_get() { # FILE KEY
  local file=$1 key=$2
  [[ -f $file ]] || return 0
  # The file is ours, and sourcing is what undoes the quoting.
  # shellcheck disable=SC1090
  (unset -v "$key" && source "$file" && printf '%s' "${!key-}")
}

# The prefix of a part's keys: gateway-1 has GATEWAY_1_PID.
env_prefix() { # NAME
  local upper=${1^^}
  printf '%s' "${upper//-/_}"
}

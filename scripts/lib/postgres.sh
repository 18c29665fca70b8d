# shellcheck shell=bash
# PostgreSQL in DIR/postgres, on loopback, for the one role that owns the one database.

# The folder of initdb and postgres: Debian keeps them out of PATH.
postgres_bin() {
  local folder
  local -a folders=()
  if command -v pg_config >/dev/null; then folders+=("$(pg_config --bindir)"); fi
  if command -v postgres >/dev/null; then
    folders+=("$(dirname -- "$(readlink -f -- "$(command -v postgres)")")")
  fi
  while IFS= read -r folder; do folders+=("$folder"); done < <(printf '%s\n' \
    /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin | sort -Vr)
  for folder in "${folders[@]}"; do
    if [[ -x $folder/initdb && -x $folder/postgres && -x $folder/pg_isready ]]; then
      printf '%s' "$folder"
      return 0
    fi
  done
  return 1
}

# Who runs PostgreSQL: oneself, or, as root, whom it was set up by or an unprivileged user.
postgres_user() { # DIR
  local owner=''
  if ! is_root; then
    id -un
    return
  fi
  [[ ! -d $1/postgres/data ]] || owner=$(stat -c %U -- "$1/postgres/data")
  if [[ -n $owner && $owner != root && $owner != UNKNOWN ]]; then
    printf '%s' "$owner"
  elif id postgres >/dev/null 2>&1; then
    printf 'postgres'
  else
    printf 'nobody'
  fi
}

# Sets `as_postgres`, the words before a command that make the right user run it. Where this user
# cannot pass a folder above (a stack or a checkout in a private home), it is let through by a
# capability that outlives the change of user.
set_as_postgres() { # DIR
  local dir=$1 user capability
  as_postgres=()
  is_root || return 0
  user=$(postgres_user "$dir")
  local -a base=(setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups)
  if "${base[@]}" test -O "$dir/postgres" && "${base[@]}" test -x "$SCRIPTS/lib/run-postgres"; then
    as_postgres=("${base[@]}")
    return 0
  fi
  for capability in dac_read_search dac_override; do
    as_postgres=("${base[@]}" --inh-caps "+$capability" --ambient-caps "+$capability")
    if "${as_postgres[@]}" test -e "$dir/postgres" 2>/dev/null; then return 0; fi
  done
  fail "the user $user, who runs PostgreSQL, cannot reach $dir; choose a folder with --dir that everybody may pass, e.g. /var/tmp/realchat"
}

postgres_prepare() { # DIR
  local dir=$1
  mkdir -p -- "$dir/postgres"
  if is_root; then chown -- "$(postgres_user "$dir")" "$dir/postgres"; fi
  chmod 700 -- "$dir/postgres"
  set_as_postgres "$dir"
  if [[ ! -f $dir/postgres/data/PG_VERSION ]]; then postgres_create "$dir"; fi
  postgres_check_version "$dir"
  postgres_settings "$(part_port postgres)" >"$dir/postgres/data/realchat.conf"
}

postgres_version() {
  "$(postgres_bin)/postgres" --version | grep -o '[0-9]*' | head -n 1
}

# A page's image after a checkpoint: pglz took a sixth of the write engine's time in PostgreSQL, and
# LZ4, which PostgreSQL knows since 15 if it was built with it, takes next to nothing.
postgres_wal_compression() {
  if (($(postgres_version) >= 15)) && ldd "$(postgres_bin)/postgres" | grep liblz4 >/dev/null; then
    echo lz4
  else
    echo on
  fi
}

postgres_check_version() { # DIR
  local made has
  made=$(cat -- "$1/postgres/data/PG_VERSION")
  has=$(postgres_version)
  [[ $made == "$has" ]] ||
    fail "$1/postgres was made by PostgreSQL $made, but $has is installed; install postgresql-$made, or wipe it with scripts/down --wipe"
}

# Makes the cluster beside its place and moves it there when it is whole. The superuser has no
# password and so cannot sign in; the owner is made in single-user mode.
postgres_create() { # DIR
  local dir=$1 bin new=$1/postgres/new
  bin=$(postgres_bin)
  rm -rf -- "$new"
  say "Creating the database in $dir/postgres."
  local -a initdb=("$bin/initdb" -D "$new" --username postgres --auth trust --encoding UTF8
    --locale C.UTF-8 --no-instructions)
  "${as_postgres[@]}" "${initdb[@]}" >"$dir/logs/initdb.log" 2>&1 ||
    fail "initdb failed: $(tail -n 1 -- "$dir/logs/initdb.log"); see $dir/logs/initdb.log"
  {
    printf 'local all all reject\n'
    printf 'host all all 127.0.0.1/32 scram-sha-256\n'
  } >"$new/pg_hba.conf"
  printf "include 'realchat.conf'\n" >>"$new/postgresql.conf"
  postgres_settings "$(part_port postgres)" >"$new/realchat.conf"
  {
    printf "CREATE ROLE realchat LOGIN CREATEROLE PASSWORD '%s';\n" "$(postgres_password "$dir")"
    printf 'GRANT pg_monitor TO realchat;\n'
    printf 'CREATE DATABASE realchat OWNER realchat;\n'
  } | "${as_postgres[@]}" "$bin/postgres" --single -D "$new" postgres \
    >"$dir/logs/initdb-roles.log" 2>&1 || true
  # Single-user mode ends with success whatever its statements met.
  ! grep -q -E 'ERROR|FATAL|PANIC' "$dir/logs/initdb-roles.log" ||
    fail "the database could not be created; see $dir/logs/initdb-roles.log"
  mv -- "$new" "$dir/postgres/data"
}

postgres_settings() { # PORT
  cat <<END
# Written by scripts/up at every start.
listen_addresses = '127.0.0.1'
port = $1
unix_socket_directories = ''
max_connections = 200
fsync = on
synchronous_commit = on
full_page_writes = on
wal_compression = $(postgres_wal_compression)
shared_buffers = 256MB
min_wal_size = 256MB
max_wal_size = 2GB
# The outbox is a queue: what its table takes is what dies between two vacuums.
autovacuum_naptime = 10s
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
END
}

postgres_password() { # DIR
  secret "$1" postgres
}

postgres_url() { # DIR PORT
  printf 'postgres://realchat:%s@127.0.0.1:%s/realchat' "$(postgres_password "$1")" "$2"
}

# A fast shutdown is SIGINT: SIGTERM would wait for every client to leave.
postgres_start() { # DIR
  local dir=$1
  set_as_postgres "$dir"
  start_part "$dir" postgres --cwd "$dir/postgres" --signal INT --grace 30 -- \
    "${as_postgres[@]}" "$SCRIPTS/lib/run-postgres" "$(postgres_bin)/postgres" "$dir/postgres/data"
}

# Says why it is not ready, or succeeds.
postgres_probe() { # PORT
  local bin answer
  bin=$(postgres_bin) || { can_connect "$1"; return; }
  answer=$("$bin/pg_isready" -t 2 -h 127.0.0.1 -p "$1" -U realchat -d realchat 2>&1) && return 0
  printf '%s' "${answer##* - }"
  return 1
}

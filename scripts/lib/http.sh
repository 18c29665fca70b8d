# shellcheck shell=bash
# Ports, and small probes over loopback TCP, without any tool beyond bash.

# Ports that anything listens on, as the kernel tells, one a line in hexadecimal.
listening_ports() {
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
    awk '$4 == "0A" { split($2, address, ":"); print address[length(address)] }' | sort -u
}

# `listening` is the output of listening_ports.
port_is_taken() { # PORT LISTENING
  [[ $'\n'$2$'\n' == *$'\n'$(printf '%04X' "$1")$'\n'* ]]
}

# Who listens there, in words, as far as this user may know.
port_owner() { # PORT
  local owner=''
  if command -v ss >/dev/null; then
    owner=$(ss -ltnpH "sport = :$1" 2>/dev/null |
      sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1, process \2/p' | head -n 1)
  fi
  printf '%s' "${owner:-another program}"
}

# The first of 29 free ports in a row, below those that the system hands out by itself.
free_port_base() {
  local base port listening tries
  listening=$(listening_ports)
  for ((tries = 0; tries < 100; tries++)); do
    base=$((20000 + RANDOM % 400 * 30))
    for ((port = base; port <= base + 28; port++)); do
      ! port_is_taken "$port" "$listening" || continue 2
    done
    printf '%s' "$base"
    return 0
  done
  fail 'no 29 free ports in a row were found'
}

can_connect() { # PORT
  timeout 2 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1" 2>/dev/null
}

# Prints the body; succeeds if the status is 200.
http_get() { # PORT PATH
  local answer
  answer=$(timeout 3 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1
    printf 'GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' '$2' >&3
    cat <&3" 2>/dev/null) || true
  answer=${answer//$'\r'/}
  printf '%s' "${answer#*$'\n\n'}"
  [[ $answer == 'HTTP/1.1 200'* ]]
}

# What `ask` gets back from a port that speaks in lines.
tcp_ask() { # PORT TEXT
  timeout 2 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1 && printf '%s' \"\$0\" >&3 && cat <&3" "$2" \
    2>/dev/null || true
}

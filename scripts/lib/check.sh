# shellcheck shell=bash
# For the stack tests written in shell: each runs against the stack of REALCHAT_DIR.

# A command that fails without a word is named.
set -E
trap 'printf "wrong: line %s: %s\n" "$LINENO" "$BASH_COMMAND" >&2' ERR

# Ends the test with a line that says what was expected.
wrong() { # TEXT
  printf 'wrong: %s\n' "$*" >&2
  exit 1
}

# A command must fail with this exit code and say one line that holds the text.
refuses() { # CODE TEXT COMMAND...
  local code=$1 text=$2 output status=0
  shift 2
  output=$("$@" 2>&1 >/dev/null) || status=$?
  [[ $status -eq $code ]] || wrong "$* ended with $status, not $code: $output"
  [[ $output == *"$text"* ]] || wrong "$* said '$output', not '$text'"
  [[ $output != *$'\n'* ]] || wrong "$* said more than one line: $output"
}

# A command must succeed and print the text.
prints() { # TEXT COMMAND...
  local text=$1 output
  shift
  output=$("$@" 2>&1) || wrong "$* failed: $output"
  [[ $output == *"$text"* ]] || wrong "$* printed '$output', not '$text'"
}

# A command of the client, by the person of that name; it prints JSON.
at() { # URL NAME COMMAND...
  local url=$1 name=$2
  shift 2
  "$BINARIES/realchat" --server "$url" --as "$name" --json "$@"
}

# One field of the JSON object on standard input.
field() { # NAME
  sed -n -E "s/.*\"$1\":\"?([^\",}]*)\"?.*/\1/p" | head -n 1
}

# Has a file so many lines by now?
has_lines() { # FILE COUNT
  (($(wc -l <"$1") >= $2))
}

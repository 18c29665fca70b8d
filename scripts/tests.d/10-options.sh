#!/usr/bin/env bash
# What is typed wrongly is refused with one line that says what is allowed, and leaves nothing behind.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"

scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
new=$scratch/new

refuses 2 "unknown option '--prot'" "$SCRIPTS/up" --prot 9000
refuses 2 '--port-base needs a value' "$SCRIPTS/up" --port-base
refuses 2 'a whole number from 1024 to 65492' "$SCRIPTS/up" --dir "$new" --port-base 65493
refuses 2 'a whole number from 1024 to 65492' "$SCRIPTS/up" --dir "$new" --port-base ten
refuses 2 'a whole number from 1 to 10' "$SCRIPTS/up" --dir "$new" --gateways 0
refuses 2 '1 or 3' "$SCRIPTS/up" --dir "$new" --brokers 2
refuses 2 'but --kafka names another' "$SCRIPTS/up" --dir "$new" --brokers 3 --kafka 127.0.0.1:1
refuses 2 'begins with postgres://' "$SCRIPTS/up" --dir "$new" --postgres localhost
refuses 2 'HOST:PORT' "$SCRIPTS/up" --dir "$new" --kafka localhost
refuses 2 'begins with redis://' "$SCRIPTS/up" --dir "$new" --redis http://localhost
refuses 2 "unknown option '--force'" "$SCRIPTS/down" --force
refuses 2 "unknown option 'all'" "$SCRIPTS/status" all
refuses 2 "unknown part 'all'" "$SCRIPTS/test" all

touch "$scratch/precious"
refuses 1 'was not made by scripts/up' "$SCRIPTS/up" --dir "$scratch"
refuses 1 'was not made by scripts/up' "$SCRIPTS/down" --dir "$scratch" --wipe
refuses 1 'is no folder' "$SCRIPTS/up" --dir "$scratch/precious"
[[ -e $scratch/precious ]] || wrong 'a folder of somebody else was removed'

port=${REALCHAT_URL##*:}
refuses 1 'is in use by' "$SCRIPTS/up" --dir "$new" --port-base "$port" \
  --postgres postgres://u@127.0.0.1:1/d --kafka 127.0.0.1:1 --redis redis://127.0.0.1:1
refuses 1 'run scripts/down' "$SCRIPTS/up" --dir "$REALCHAT_DIR" --port-base $((port + 1))
refuses 1 'run scripts/down' "$SCRIPTS/up" --dir "$REALCHAT_DIR" --brokers 3
[[ ! -e $new ]] || wrong "a refused start left $new behind"

prints 'There is no stack' "$SCRIPTS/down" --dir "$new"
prints 'usage: scripts/up' "$SCRIPTS/up" --help
say 'wrong options are refused'

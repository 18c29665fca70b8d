# shellcheck shell=bash
# Everything that a stack is made of.

# shellcheck source=scripts/lib/env.sh
source "$SCRIPTS/lib/env.sh"
# shellcheck source=scripts/lib/http.sh
source "$SCRIPTS/lib/http.sh"
# shellcheck source=scripts/lib/process.sh
source "$SCRIPTS/lib/process.sh"
# shellcheck source=scripts/lib/postgres.sh
source "$SCRIPTS/lib/postgres.sh"
# shellcheck source=scripts/lib/redis.sh
source "$SCRIPTS/lib/redis.sh"
# shellcheck source=scripts/lib/kafka.sh
source "$SCRIPTS/lib/kafka.sh"
# shellcheck source=scripts/lib/stack.sh
source "$SCRIPTS/lib/stack.sh"
# shellcheck source=scripts/lib/daemons.sh
source "$SCRIPTS/lib/daemons.sh"
# shellcheck source=scripts/lib/ready.sh
source "$SCRIPTS/lib/ready.sh"
# shellcheck source=scripts/lib/install.sh
source "$SCRIPTS/lib/install.sh"

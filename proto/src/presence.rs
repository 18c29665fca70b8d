//! What presenced keeps in Redis for others to read.

use uuid::Uuid;

/// There as long as Redis has all that presenced gave it: without it, who is missing may be online.
pub const COMPLETE: &str = "presence:complete";

/// There while the user has a session: the gateways that hold it, separated by commas.
#[must_use]
pub fn user_key(user: Uuid) -> String {
    format!("user:{user}")
}

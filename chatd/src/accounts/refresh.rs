//! Refresh tokens: each is good for one use and is replaced by it. A second use means that two
//! parties hold the token, and no one can tell which is the thief: all of its family ends.
//!
//! Or that the answer to the first use was lost: so for a short while, and as long as no token that
//! came of it was used, the token is good once more. Whoever holds both is told apart by the next use.

use super::identity::Identity;
use super::secrets::{fresh, hash};
use crate::db::{Connection, Query, signed};
use crate::failure::Failure;
use crate::limits::{REFRESH_GRACE_S, REFRESH_GRACE_USES_MAX, REFRESH_TOKEN_BYTES};
use proto::Uuid;
use proto::error::ErrorCode;

const INSERT: Query = Query {
    name: "insert_refresh_token",
    sql: "INSERT INTO accounts.refresh_tokens
              (token_hash, family_id, user_id, device_id, issued_at_us, expires_at_us)
          VALUES ($1, $2, $3, $4, $5, $6)",
};

const LOCK: Query = Query {
    name: "lock_refresh_token",
    sql: "SELECT t.family_id, t.user_id, t.device_id, t.expires_at_us, t.used_at_us,
                 t.revoked_at_us IS NOT NULL
          FROM accounts.refresh_tokens t WHERE t.token_hash = $1 FOR UPDATE",
};

const USE: Query = Query {
    name: "use_refresh_token",
    sql: "UPDATE accounts.refresh_tokens SET used_at_us = $2 WHERE token_hash = $1",
};

/// What came of a token's uses: how many tokens, and how many of them were used.
const SUCCESSORS: Query = Query {
    name: "refresh_successors",
    sql: "SELECT count(*), count(used_at_us) FROM accounts.refresh_tokens
          WHERE family_id = $1 AND issued_at_us >= $2 AND token_hash <> $3",
};

const REVOKE_FAMILY: Query = Query {
    name: "revoke_family",
    sql: "UPDATE accounts.refresh_tokens SET revoked_at_us = $2
          WHERE family_id = $1 AND revoked_at_us IS NULL",
};

const FAMILY: Query = Query {
    name: "refresh_family",
    sql: "SELECT family_id FROM accounts.refresh_tokens WHERE token_hash = $1",
};

const SEEN: Query = Query {
    name: "device_refreshed",
    sql: "UPDATE accounts.devices SET last_seen_at_us = $2 WHERE device_id = $1",
};

/// A token of a new family, for a sign-in.
pub(crate) fn issue_refresh_token(
    connection: &mut Connection,
    identity: Identity,
    lifetime_s: u64,
) -> Result<String, Failure> {
    issue(connection, identity, proto::id::new(), lifetime_s)
}

fn issue(
    connection: &mut Connection,
    identity: Identity,
    family_id: Uuid,
    lifetime_s: u64,
) -> Result<String, Failure> {
    let token = fresh::<REFRESH_TOKEN_BYTES>()?;
    let now_us = daemon::clock::now_us();
    let expires_at_us = signed(now_us.saturating_add(lifetime_s.saturating_mul(1_000_000)));
    let Identity { user_id, device_id } = identity;
    connection.execute(
        &INSERT,
        &[&hash(&token), &family_id, &user_id, &device_id, &signed(now_us), &expires_at_us],
    )?;
    Ok(token)
}

/// Replaces a token by the next one of its family.
pub(crate) fn rotate(
    connection: &mut Connection,
    token: &str,
    lifetime_s: u64,
) -> Result<(Identity, String), Failure> {
    let invalid = |message: &str| Failure::new(ErrorCode::TokenInvalid, message);
    let hash = hash(token);
    let now_us = signed(daemon::clock::now_us());
    // The inner result is decided within the transaction; a reuse must be committed, not undone.
    connection.transaction(|connection| {
        let Some(row) = connection.row(&LOCK, &[&hash])? else {
            return Ok(Err(invalid("the refresh token is none of this service's; sign in again")));
        };
        let family_id: Uuid = row.get(0);
        let identity = Identity { user_id: row.get(1), device_id: row.get(2) };
        let (expires_at_us, used_at_us, is_revoked): (i64, Option<i64>, bool) =
            (row.get(3), row.get(4), row.get(5));
        if is_revoked || expires_at_us <= now_us {
            let message = "the refresh token was revoked or has expired; sign in again";
            return Ok(Err(invalid(message)));
        }
        let is_reuse = match used_at_us {
            Some(used_at_us) => {
                let successors = connection.row(&SUCCESSORS, &[&family_id, &used_at_us, &hash])?;
                let (given, used) = successors.map_or((0, 0), |row| (row.get(0), row.get(1)));
                !is_in_grace(used_at_us, now_us, given, used)
            }
            None => false,
        };
        if is_reuse {
            connection.execute(&REVOKE_FAMILY, &[&family_id, &now_us])?;
            let (user_id, device_id) = (identity.user_id, identity.device_id);
            tracing::warn!(%user_id, %device_id, error_code = "token_invalid",
                "a refresh token was used twice; its family is revoked");
            let message = "the refresh token was used before, so the sign-in ended; sign in again";
            return Ok(Err(invalid(message)));
        }
        if used_at_us.is_none() {
            connection.execute(&USE, &[&hash, &now_us])?;
        }
        connection.execute(&SEEN, &[&identity.device_id, &now_us])?;
        let next = issue(connection, identity, family_id, lifetime_s)?;
        Ok::<_, Failure>(Ok((identity, next)))
    })?
}

/// May a token that was used be used again? Its first use gave `given` tokens so far, and `used` of
/// them were used, which shows that an answer arrived.
fn is_in_grace(used_at_us: i64, now_us: i64, given: i64, used: i64) -> bool {
    let age_us = now_us.saturating_sub(used_at_us);
    age_us <= signed(REFRESH_GRACE_S * 1_000_000) && used == 0 && given < REFRESH_GRACE_USES_MAX
}

/// Ends a sign-in. A token that is not known ends nothing, and that is as good.
pub(crate) fn revoke_family(connection: &mut Connection, token: &str) -> Result<(), Failure> {
    let now_us = signed(daemon::clock::now_us());
    if let Some(row) = connection.row(&FAMILY, &[&hash(token)])? {
        let family_id: Uuid = row.get(0);
        connection.execute(&REVOKE_FAMILY, &[&family_id, &now_us])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grace_ends_with_its_time_its_uses_or_the_use_of_what_it_gave() {
        let grace_us = signed(REFRESH_GRACE_S * 1_000_000);
        assert!(is_in_grace(5, 5 + grace_us, 1, 0));
        assert!(!is_in_grace(5, 6 + grace_us, 1, 0));
        assert!(is_in_grace(5, 6, REFRESH_GRACE_USES_MAX - 1, 0));
        assert!(!is_in_grace(5, 6, REFRESH_GRACE_USES_MAX, 0));
        assert!(!is_in_grace(5, 6, 1, 1));
    }
}

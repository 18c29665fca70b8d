//! Who may hear of whom.

use super::events::membership;
use crate::db::{Connection, Query, unsigned};
use crate::failure::Failure;
use crate::limits::MEMBERS_MAX;
use proto::Uuid;
use proto::id::{from_field, pack, unpack};
use proto::limits::PRESENCE_USERS_MAX;
use proto::link::{Audience, AudienceResult, PresenceAuthorize, PresenceAuthorizeResult};

const VERSION: Query = Query {
    name: "membership_version",
    sql: "SELECT membership_version FROM messaging.conversations WHERE conversation_id = $1",
};

const AUDIENCE: Query = Query {
    name: "audience",
    sql: "SELECT user_id FROM messaging.members
          WHERE conversation_id = $1 AND left_sequence_number IS NULL ORDER BY user_id",
};

const MAY_WATCH: Query = Query {
    name: "may_watch",
    sql: "SELECT DISTINCT other.user_id
          FROM messaging.members mine JOIN messaging.members other USING (conversation_id)
          WHERE mine.user_id = $1 AND mine.left_sequence_number IS NULL
            AND other.user_id = ANY($2) AND other.left_sequence_number IS NULL",
};

const CONTACTS: Query = Query {
    name: "contacts",
    sql: "SELECT DISTINCT other.user_id
          FROM messaging.members mine JOIN messaging.members other USING (conversation_id)
          WHERE mine.user_id = $1 AND mine.left_sequence_number IS NULL
            AND other.user_id <> $1 AND other.left_sequence_number IS NULL
          LIMIT $2",
};

/// All members, for one of them. The version is read first, so that a change in between makes the
/// answer look older than it is, never newer.
pub(crate) fn audience(
    connection: &mut Connection,
    request: &Audience,
) -> Result<AudienceResult, Failure> {
    let user_id = from_field("user_id", &request.user_id)?;
    let conversation_id = from_field("conversation_id", &request.conversation_id)?;
    membership(connection, conversation_id, user_id)?;
    let version = connection.row(&VERSION, &[&conversation_id])?;
    let membership_version = version.map_or(0, |row| unsigned(row.get(0)));
    let rows = connection.rows(&AUDIENCE, &[&conversation_id])?;
    let members: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    if !members.contains(&user_id) {
        return Err(Failure::not_a_member());
    }
    Ok(AudienceResult { user_ids: pack(&members), membership_version })
}

/// Of the users asked for, those that may be watched: oneself, and who shares a conversation.
pub(crate) fn may_watch(
    connection: &mut Connection,
    request: &PresenceAuthorize,
) -> Result<PresenceAuthorizeResult, Failure> {
    let user_id = from_field("user_id", &request.user_id)?;
    let asked: Vec<Uuid> = unpack("user_ids", &request.user_ids)?.collect();
    if asked.len() > PRESENCE_USERS_MAX {
        let count = asked.len();
        return Err(Failure::invalid(format!(
            "{count} users are too many; at most {PRESENCE_USERS_MAX} are allowed"
        )));
    }
    let rows = connection.rows(&MAY_WATCH, &[&user_id, &asked])?;
    let mut allowed: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    if asked.contains(&user_id) && !allowed.contains(&user_id) {
        allowed.push(user_id);
    }
    Ok(PresenceAuthorizeResult { user_ids: pack(&allowed) })
}

/// The user, and those who share a conversation with it, as many as one record can name.
pub(crate) fn contacts(
    connection: &mut Connection,
    user_id: Uuid,
) -> Result<Vec<Uuid>, postgres::Error> {
    let limit = i64::try_from(MEMBERS_MAX - 1).unwrap_or(i64::MAX);
    let rows = connection.rows(&CONTACTS, &[&user_id, &limit])?;
    Ok(std::iter::once(user_id).chain(rows.iter().map(|row| row.get(0))).collect())
}

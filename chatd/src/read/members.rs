//! Who may hear of whom.

use super::events::membership;
use crate::db::{Connection, Query, signed, unsigned};
use crate::failure::Failure;
use proto::Uuid;
use proto::id::{from_field, pack, unpack};
use proto::limits::{AUDIENCE_PAGE_USERS_MAX, INLINE_RECIPIENTS_MAX, PRESENCE_USERS_MAX};
use proto::link::{
    Audience, AudiencePage, AudiencePageResult, AudienceResult, PresenceAuthorize,
    PresenceAuthorizeResult,
};

const VERSION: Query = Query {
    name: "membership_version",
    sql: "SELECT membership_version FROM messaging.conversations WHERE conversation_id = $1",
};

const AUDIENCE: Query = Query {
    name: "audience",
    sql: "SELECT user_id FROM messaging.members
          WHERE conversation_id = $1 AND left_sequence_number IS NULL ORDER BY user_id LIMIT $2",
};

/// Who joins or leaves with an event receives it.
const AUDIENCE_PAGE: Query = Query {
    name: "audience_page",
    sql: "SELECT user_id FROM messaging.members
          WHERE conversation_id = $1 AND user_id > $2 AND joined_sequence_number <= $3
            AND (left_sequence_number IS NULL OR left_sequence_number >= $3)
          ORDER BY user_id LIMIT $4",
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

/// All members, for one of them, if one record can name them. The version is read first, so that a change in between makes the
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
    let limit = i64::try_from(INLINE_RECIPIENTS_MAX + 1).unwrap_or(i64::MAX);
    let rows = connection.rows(&AUDIENCE, &[&conversation_id, &limit])?;
    if rows.len() > INLINE_RECIPIENTS_MAX {
        return Ok(AudienceResult { user_ids: Vec::new(), membership_version, is_large: true });
    }
    let members: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    if !members.contains(&user_id) {
        return Err(Failure::not_a_member());
    }
    Ok(AudienceResult { user_ids: pack(&members), membership_version, is_large: false })
}

/// A page of those who receive one event of the log.
pub(crate) fn audience_page(
    connection: &mut Connection,
    request: &AudiencePage,
) -> Result<AudiencePageResult, Failure> {
    let conversation_id = from_field("conversation_id", &request.conversation_id)?;
    let after = match request.after_user_id.as_slice() {
        [] => Uuid::nil(),
        id => from_field("after_user_id", id)?,
    };
    let limit = match usize::try_from(request.limit) {
        Ok(limit @ 1..=AUDIENCE_PAGE_USERS_MAX) => limit,
        _ => AUDIENCE_PAGE_USERS_MAX,
    };
    let rows = connection.rows(
        &AUDIENCE_PAGE,
        &[&conversation_id, &after, &signed(request.sequence_number), &signed(limit as u64)],
    )?;
    let members: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    Ok(AudiencePageResult { user_ids: pack(&members), more: members.len() == limit })
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
    let limit = i64::try_from(INLINE_RECIPIENTS_MAX - 1).unwrap_or(i64::MAX);
    let rows = connection.rows(&CONTACTS, &[&user_id, &limit])?;
    Ok(std::iter::once(user_id).chain(rows.iter().map(|row| row.get(0))).collect())
}

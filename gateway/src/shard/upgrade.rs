//! Upgrades whose token came in `Authorization`: a client that reads the status of an answer is refused
//! with one where its user has too many sessions, which only the user's home shard knows.

use super::Shard;
use super::handover::Errand;
use crate::inbound::token::Claims;
use crate::inbound::upgrade::Upgrade;

impl Shard {
    /// What is wrong with a token is said after the upgrade, to browsers and others alike.
    pub(super) fn upgrade(&mut self, slot: u32, upgrade: Box<Upgrade>) {
        let token = upgrade.token.as_deref().unwrap_or_default();
        match self.verifier.verify(token, self.now.wall_s()) {
            Ok(claims) => self.at_home(slot, Errand::Upgrade { claims, upgrade }),
            Err(_) => self.grant(slot, *upgrade, None),
        }
    }

    pub(super) fn upgrade_at_home(&mut self, slot: u32, claims: Claims, upgrade: Upgrade) {
        match self.too_many_sessions(&claims.user) {
            Some(error) => self.respond_error(slot, &error),
            None => self.grant(slot, upgrade, Some(claims)),
        }
    }

    fn grant(&mut self, slot: u32, upgrade: Upgrade, claims: Option<Claims>) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let response = connection.conn.upgrade(upgrade, claims);
        connection.kick = connection.conn.has_stash();
        self.enqueue_raw(slot, response);
        self.follow_stage(slot);
        self.mark_ready(slot);
    }
}

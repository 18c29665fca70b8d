//! Changes that are reported together, pure.

use super::PresenceChange;
use crate::limits::PRESENCE_CHANGES_MAX;
use proto::Uuid;
use proto::link::PresenceSession;
use std::collections::HashMap;

/// Keyed by connection, which is unique within a run of the gateway.
#[derive(Default)]
pub(super) struct Batch {
    connected: HashMap<u64, PresenceSession>,
    disconnected: Vec<PresenceSession>,
}

impl Batch {
    /// A session that came and went within one batch is reported as gone only.
    pub(super) fn add(&mut self, change: PresenceChange) {
        match change {
            PresenceChange::Connected { user, device, connection } => {
                self.connected.insert(connection, session(&user, &device, connection));
            }
            PresenceChange::Disconnected { user, device, connection } => {
                self.connected.remove(&connection);
                self.disconnected.push(session(&user, &device, connection));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connected.is_empty() && self.disconnected.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.connected.len() + self.disconnected.len() >= PRESENCE_CHANGES_MAX
    }

    /// Those who came and those who went; nothing is left.
    pub(super) fn take(&mut self) -> (Vec<PresenceSession>, Vec<PresenceSession>) {
        let connected = self.connected.drain().map(|(_, session)| session).collect();
        (connected, std::mem::take(&mut self.disconnected))
    }
}

pub(super) fn session(user: &Uuid, device: &Uuid, connection: u64) -> PresenceSession {
    PresenceSession {
        user_id: user.as_bytes().to_vec(),
        device_id: device.as_bytes().to_vec(),
        connection,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_came_and_went_is_reported_as_gone_only() {
        let (user, device) = (proto::id::new(), proto::id::new());
        let mut batch = Batch::default();
        for connection in [1, 2] {
            batch.add(PresenceChange::Connected { user, device, connection });
        }
        batch.add(PresenceChange::Disconnected { user, device, connection: 1 });
        let (connected, disconnected) = batch.take();
        assert_eq!(connected, [session(&user, &device, 2)]);
        assert_eq!(disconnected, [session(&user, &device, 1)]);
        assert!(batch.is_empty());
    }

    #[test]
    fn a_batch_is_full_at_its_limit() {
        let mut batch = Batch::default();
        for connection in 0..PRESENCE_CHANGES_MAX as u64 {
            assert!(!batch.is_full());
            let (user, device) = (proto::id::new(), proto::id::new());
            batch.add(PresenceChange::Connected { user, device, connection });
        }
        assert!(batch.is_full());
    }
}

//! How far a session has come, told with its heartbeat: one frame for all sessions of the shard, made
//! again at most once for each time that the Kafka threads tell where they are.

use super::Shard;
use crate::clock::Now;
use crate::mail::Priority;
use crate::outbound::payload::{Handle, Tag};
use proto::Message;
use proto::client::server_frame::Frame;
use proto::client::{ServerFrame, Watermark};

#[derive(Default)]
pub(super) struct Told {
    /// When it changed last; 0: never.
    changed_at_ms: u64,
    /// The frame, if there has been one since then.
    payload: Option<Handle>,
    is_made: bool,
}

impl Told {
    pub(super) fn changed(&mut self, now: Now) {
        self.changed_at_ms = now.ms.max(1);
        self.is_made = false;
    }

    /// Whether a frame is kept.
    pub(super) fn is_kept(&self) -> bool {
        self.payload.is_some()
    }
}

impl Shard {
    /// The session was told when it was pinged last, or in its welcome: nothing, if it has not changed
    /// since. Nor is who misses something: the watermark would claim that it came.
    pub(super) fn tell_watermark(&mut self, slot: u32) {
        let Told { changed_at_ms, .. } = self.watermark;
        // Heartbeats may be late: rather told twice than not at all.
        let known_after_ms = self.settings.ping_ms + self.settings.ping_ms / 2;
        if changed_at_ms == 0 || changed_at_ms + known_after_ms < self.now.ms {
            return;
        }
        let Some(connection) = self.table.get(slot).filter(|it| !it.blocked) else { return };
        let Some(session) = &connection.session else { return };
        let misses =
            session.extra.as_ref().is_some_and(|it| it.catch_up.is_some() || !it.gaps.is_empty());
        if misses {
            return;
        }
        if let Some(handle) = self.watermark_frame() {
            // Where there is no room, the next heartbeat tells.
            let _ = self.try_enqueue(slot, handle, Priority::Normal);
        }
    }

    fn watermark_frame(&mut self) -> Option<Handle> {
        if self.watermark.is_made {
            return self.watermark.payload;
        }
        self.watermark.is_made = true;
        if let Some(before) = self.watermark.payload.take() {
            self.payloads.release(before);
        }
        let watermark = self.recent.watermark();
        if watermark.is_empty() {
            return None;
        }
        let frame = Some(Frame::Watermark(Watermark { watermark }));
        let bytes = ServerFrame { request_id: 0, frame }.encode_to_vec();
        let tag = Tag { priority: Priority::Normal, ..Tag::EPHEMERAL };
        let handle = self.payloads.add_event(bytes.into(), 0, tag);
        self.watermark.payload = Some(handle);
        Some(handle)
    }
}

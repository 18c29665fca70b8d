//! Phase mailbox: what other threads want of this shard.

use super::Shard;
use crate::limits::{LETTERS_IN_A_ROW_MAX, RECIPIENTS_IN_A_ROW_MAX};
use crate::mail::{Mail, Skipped};

impl Shard {
    pub(super) fn take_letters(&mut self) {
        self.inbox.hush();
        let mut recipients = 0;
        for _ in 0..LETTERS_IN_A_ROW_MAX {
            let Some(mail) = self.inbox.take() else { return };
            if let Mail::Deliver(delivery) = &mail {
                recipients += delivery.recipients.len();
            }
            self.take_letter(mail);
            if recipients >= RECIPIENTS_IN_A_ROW_MAX {
                return;
            }
        }
    }

    fn take_letter(&mut self, mail: Mail) {
        match mail {
            Mail::Adopt(handover) => self.adopt(*handover),
            Mail::Deliver(delivery) => {
                self.deliver(&delivery);
                // Whoever resumes between two parts finds the event there.
                if delivery.recipients.is_first() {
                    self.recent.add(delivery);
                }
            }
            Mail::Routed(users) => self.routed(&users),
            Mail::Late { partition, from } => self.recent.late(partition, from),
            Mail::Missed(missed) => self.tell_missed(&missed),
            Mail::Tail { log, positions, skipped } => {
                if skipped == Skipped::Unknown {
                    // Before the watermark claims what did not come.
                    self.send_all_to_resume();
                }
                self.recent.advance(log, &positions, skipped != Skipped::Nothing);
                self.watermark.changed(self.now);
            }
            Mail::Presence { user, frame } => self.tell_watchers(&user, frame),
            Mail::PresenceForgotten => self.presence_was_forgotten(),
            Mail::Ticket { consumer, ticket } => self.progress.store(consumer, self.id, ticket),
            Mail::Answer(answer) => self.take_answer(answer),
            Mail::Keys(verifier) => self.verifier = verifier,
            Mail::Census => self.census(),
            Mail::Listen(sockets) => self.listen(sockets),
            Mail::Certificate(config) => self.certificate = Some(config),
            Mail::Drain => self.drain(),
            Mail::Stop => self.stopping = true,
        }
    }

    fn census(&self) {
        let sessions = self.table.iter().filter_map(|(_, connection)| {
            let session = connection.session.as_ref()?;
            Some((session.user, session.device, self.connection_number(connection.generation)))
        });
        self.beyond.census(self.id, sessions.collect());
    }
}

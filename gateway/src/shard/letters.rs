//! Phase mailbox: what other threads want of this shard.

use super::Shard;
use crate::limits::LETTERS_IN_A_ROW_MAX;
use crate::mail::Mail;

impl Shard {
    pub(super) fn take_letters(&mut self) {
        self.inbox.hush();
        for _ in 0..LETTERS_IN_A_ROW_MAX {
            match self.inbox.take() {
                Some(mail) => self.take_letter(mail),
                None => return,
            }
        }
    }

    fn take_letter(&mut self, mail: Mail) {
        match mail {
            Mail::Adopt(handover) => self.adopt(*handover),
            Mail::Deliver(delivery) => {
                self.deliver(&delivery);
                self.recent.add(delivery);
            }
            Mail::Tail { log, positions, jumped } => self.recent.advance(log, &positions, jumped),
            Mail::Presence { user, frame } => self.tell_watchers(&user, frame),
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

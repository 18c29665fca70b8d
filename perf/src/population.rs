//! Users, conversations and members, inserted in bulk as chatd would have made them one by one.

use crate::failure::{Context, Outcome};
use crate::limits::ROWS_AT_ONCE;
use fastrand::Rng;
use postgres::{Client, NoTls, Transaction};
use proto::client::MembershipChanged;
use proto::{Message, Uuid};

#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    pub(crate) id: Uuid,
    /// Indexes into the population's users; the first one made it.
    pub(crate) members: Vec<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Population {
    pub(crate) users: Vec<Uuid>,
    pub(crate) conversations: Vec<Conversation>,
}

impl Population {
    /// Deals members out evenly: no user is in many more conversations than another.
    pub(crate) fn plan(
        random: &mut Rng,
        users: usize,
        conversations: usize,
        members: usize,
    ) -> Self {
        let mut deck: Vec<usize> = Vec::new();
        let mut deal = |taken: &[usize]| {
            loop {
                if deck.is_empty() {
                    deck.extend(0..users);
                    random.shuffle(&mut deck);
                }
                // A user is in a conversation once: the next card that is not there yet.
                if let Some(at) = deck.iter().rposition(|user| !taken.contains(user)) {
                    return deck.swap_remove(at);
                }
                deck.clear();
            }
        };
        let conversations = (0..conversations).map(|_| {
            let mut taken = Vec::new();
            while taken.len() < members.min(users) {
                taken.push(deal(&taken));
            }
            Conversation { id: proto::id::new(), members: taken }
        });
        Self {
            conversations: conversations.collect(),
            users: (0..users).map(|_| proto::id::new()).collect(),
        }
    }

    /// The conversations of each user, by index.
    pub(crate) fn conversations_by_user(&self) -> Vec<Vec<usize>> {
        let mut by_user = vec![Vec::new(); self.users.len()];
        for (index, conversation) in self.conversations.iter().enumerate() {
            for member in &conversation.members {
                by_user[*member].push(index);
            }
        }
        by_user
    }

    pub(crate) fn insert(&self, database_url: &str) -> Outcome {
        let mut client = connect(database_url)?;
        let mut transaction = client.transaction().reaching("PostgreSQL")?;
        self.insert_users(&mut transaction)?;
        self.insert_conversations(&mut transaction)?;
        transaction.commit().doing("the commit of users and conversations")
    }

    fn insert_users(&self, transaction: &mut Transaction<'_>) -> Outcome {
        let now_us = i64::try_from(daemon::clock::now_us()).doing("the clock")?;
        let run = fastrand::u64(..);
        let mut first = 0;
        for users in self.users.chunks(ROWS_AT_ONCE) {
            let numbers = first..first + users.len();
            let names: Vec<_> = numbers.map(|number| format!("perf-{run:016x}-{number}")).collect();
            first += users.len();
            let accounts = "INSERT INTO accounts.users (user_id, name, created_at_us)
                SELECT id, name, $3 FROM unnest($1::uuid[], $2::text[]) AS it (id, name)";
            transaction.execute(accounts, &[&users, &names, &now_us]).doing("users")?;
            let profiles = "INSERT INTO profiles.profiles
                    (user_id, name, display_name, updated_at_us)
                SELECT id, name, name, $3 FROM unnest($1::uuid[], $2::text[]) AS it (id, name)";
            transaction.execute(profiles, &[&users, &names, &now_us]).doing("profiles")?;
        }
        Ok(())
    }

    fn insert_conversations(&self, transaction: &mut Transaction<'_>) -> Outcome {
        let now_us = i64::try_from(daemon::clock::now_us()).doing("the clock")?;
        for conversations in self.conversations.chunks(ROWS_AT_ONCE) {
            let ids: Vec<Uuid> = conversations.iter().map(|it| it.id).collect();
            let makers: Vec<Uuid> =
                conversations.iter().map(|it| self.users[it.members[0]]).collect();
            let rows = "INSERT INTO messaging.conversations (conversation_id, title, created_by,
                    created_at_us, last_sequence_number, membership_version, last_event_at_us)
                SELECT id, 'perf', maker, $3, 1, 1, $3
                FROM unnest($1::uuid[], $2::uuid[]) AS it (id, maker)";
            transaction.execute(rows, &[&ids, &makers, &now_us]).doing("conversations")?;
            let details: Vec<Vec<u8>> = conversations.iter().map(|it| self.creation(it)).collect();
            // The creation is the log's first event; kind 5 is a change of membership.
            let rows = "INSERT INTO messaging.events (conversation_id, sequence_number, kind,
                    message_number, sender_id, sender_device_id, idempotency_key, body_hash,
                    details, created_at_us)
                SELECT id, 1, 5, 0, maker, maker, 'created', decode(md5(id::text), 'hex'),
                    details, $4
                FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) AS it (id, maker, details)";
            transaction.execute(rows, &[&ids, &makers, &details, &now_us]).doing("events")?;
        }
        let pairs = self
            .conversations
            .iter()
            .flat_map(|it| it.members.iter().map(|member| (it.id, self.users[*member])));
        let (ids, users): (Vec<Uuid>, Vec<Uuid>) = pairs.unzip();
        for (ids, users) in ids.chunks(ROWS_AT_ONCE).zip(users.chunks(ROWS_AT_ONCE)) {
            let rows = "INSERT INTO messaging.members
                    (conversation_id, user_id, joined_sequence_number)
                SELECT id, member, 1 FROM unnest($1::uuid[], $2::uuid[]) AS it (id, member)";
            transaction.execute(rows, &[&ids, &users]).doing("members")?;
        }
        Ok(())
    }

    fn creation(&self, conversation: &Conversation) -> Vec<u8> {
        let added = conversation.members.iter().map(|it| self.users[*it].as_bytes().to_vec());
        let event = MembershipChanged {
            added_user_ids: added.collect(),
            created: true,
            ..Default::default()
        };
        event.encode_to_vec()
    }
}

/// A connection to the stack's database, as its owner.
pub(crate) fn connect(database_url: &str) -> Outcome<Client> {
    Client::connect(database_url, NoTls).reaching("PostgreSQL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_distinct_and_dealt_evenly() {
        let plan = Population::plan(&mut Rng::with_seed(3), 40, 100, 7);
        for conversation in &plan.conversations {
            let mut members = conversation.members.clone();
            members.sort_unstable();
            members.dedup();
            assert_eq!(members.len(), 7);
        }
        let counts: Vec<_> = plan.conversations_by_user().iter().map(Vec::len).collect();
        let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(high - low <= 4, "{counts:?}");
        assert_eq!(
            Population::plan(&mut Rng::with_seed(3), 3, 1, 9).conversations[0].members.len(),
            3
        );
    }
}

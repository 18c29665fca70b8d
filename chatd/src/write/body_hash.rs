//! What is kept of a request's body beside its key: it tells whether a key that comes again comes with
//! the same request.

use super::command::Change;
use blake2::Blake2b;
use blake2::digest::Digest;
use blake2::digest::consts::U16;
use proto::Uuid;
use sha2::Sha256;

/// BLAKE2b with 16 bytes of output (RFC 7693) over kind and body, once for every message. SHA-256, where the
/// processor has no instructions for it, was nearly half of what the threads did that read requests.
pub(crate) type BodyHash = [u8; 16];

pub(crate) fn body_hash(change: &Change) -> BodyHash {
    hash_of::<Blake2b<U16>>(change).into()
}

/// Was `before`, as it is stored, made of this body? Rows of earlier versions hold the first 16 bytes of
/// SHA-256; a key is good for ever, so these are still compared.
pub(crate) fn is_of(before: &[u8], change: &Change, now: &BodyHash) -> bool {
    before == now || before == &hash_of::<Sha256>(change)[..size_of::<BodyHash>()]
}

fn hash_of<H: Digest>(change: &Change) -> blake2::digest::Output<H> {
    let mut hasher = H::new();
    match change {
        Change::Message { text } => {
            hasher.update(b"message\0");
            hasher.update(text);
        }
        Change::Create { title, member_ids } => {
            hasher.update(b"create\0");
            update_with_ids(&mut hasher, member_ids);
            hasher.update(title);
        }
        Change::Title { title } => {
            hasher.update(b"title\0");
            hasher.update(title);
        }
        Change::Add { user_ids, .. } => {
            hasher.update(b"add\0");
            update_with_ids(&mut hasher, user_ids);
        }
        Change::Remove { user_id } => {
            hasher.update(b"remove\0");
            hasher.update(user_id);
        }
        Change::Edit { message_id, text } => {
            hasher.update(b"edit\0");
            hasher.update(message_id);
            hasher.update(text);
        }
        Change::Delete { message_id } => {
            hasher.update(b"delete\0");
            hasher.update(message_id);
        }
        Change::React { message_id, reaction, removed } => {
            hasher.update(if *removed { b"unreact\0".as_slice() } else { b"react\0" });
            hasher.update(message_id);
            hasher.update(reaction);
        }
    }
    hasher.finalize()
}

fn update_with_ids(hasher: &mut impl Digest, ids: &[Uuid]) {
    hasher.update((ids.len() as u64).to_be_bytes());
    for id in ids {
        hasher.update(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Change {
        Change::Message { text: text.into() }
    }

    #[test]
    fn kinds_and_bodies_are_told_apart() {
        let user_id = Uuid::from_u128(7);
        let changes = [
            message("a"),
            message("b"),
            Change::Title { title: "a".into() },
            Change::Add { user_ids: vec![user_id], is_keyed: true },
            Change::Remove { user_id },
            Change::Edit { message_id: user_id, text: "a".into() },
            Change::Edit { message_id: user_id, text: "b".into() },
            Change::Delete { message_id: user_id },
            Change::React { message_id: user_id, reaction: "a".into(), removed: false },
            Change::React { message_id: user_id, reaction: "a".into(), removed: true },
        ];
        let hashes: std::collections::HashSet<_> = changes.iter().map(body_hash).collect();
        assert_eq!(hashes.len(), changes.len());
    }

    #[test]
    fn what_an_earlier_version_stored_is_known_again() {
        // printf 'message\0a' | sha256sum | head -c 32
        let stored = 0xa55ff68aa5e3aef3cd3f0edf3179442c_u128.to_be_bytes();
        assert!(is_of(&stored, &message("a"), &body_hash(&message("a"))));
        assert!(!is_of(&stored, &message("b"), &body_hash(&message("b"))));
        assert!(is_of(&body_hash(&message("b")), &message("b"), &body_hash(&message("b"))));
    }
}

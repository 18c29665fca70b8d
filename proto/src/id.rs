//! Ids are 128 bits: 16 bytes in protobuf and PostgreSQL, UUID text in JSON and logs.

use crate::limits::OUTBOX_SHARDS;
use uuid::Uuid;

/// Bytes of an id.
pub const ID_BYTES: usize = 16;

/// The bytes are not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {got} bytes; an id is 16 bytes (a UUID)")]
pub struct IdError {
    pub field: &'static str,
    pub got: usize,
}

/// A new id of ours: UUIDv7 (RFC 9562 section 5.7), so that ids made later sort later.
#[must_use]
pub fn new() -> Uuid {
    Uuid::now_v7()
}

/// Reads an id from a protobuf field; `field` names it in the error.
pub fn from_field(field: &'static str, bytes: &[u8]) -> Result<Uuid, IdError> {
    Uuid::from_slice(bytes).map_err(|_| IdError { field, got: bytes.len() })
}

/// A foreign issuer's subject as a user id: the UUID that it is, or the UUIDv5 of issuer and subject.
#[must_use]
pub fn from_subject(issuer: &str, subject: &str) -> Uuid {
    Uuid::parse_str(subject).unwrap_or_else(|_| {
        let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, issuer.as_bytes());
        Uuid::new_v5(&namespace, subject.as_bytes())
    })
}

/// Ids packed back to back, as in a record's `recipients`.
#[must_use]
pub fn pack<'a>(ids: impl IntoIterator<Item = &'a Uuid>) -> Vec<u8> {
    ids.into_iter().flat_map(|id| *id.as_bytes()).collect()
}

/// Reads packed ids; an error if the length is no multiple of 16.
pub fn unpack<'a>(
    field: &'static str,
    bytes: &'a [u8],
) -> Result<impl ExactSizeIterator<Item = Uuid> + use<'a>, IdError> {
    let (ids, rest) = bytes.as_chunks::<ID_BYTES>();
    if rest.is_empty() {
        Ok(ids.iter().map(|id| Uuid::from_bytes(*id)))
    } else {
        Err(IdError { field, got: bytes.len() })
    }
}

/// The outbox shard of a record's key (a conversation or a user), from 0 to `OUTBOX_SHARDS - 1`:
/// FNV-1a over the id's bytes, the same in every build for ever.
#[must_use]
pub fn outbox_shard(id: &Uuid) -> u16 {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = id.as_bytes().iter().fold(0x811c_9dc5, step);
    // Folded, because FNV's low bits alone mix poorly; below the shard count, so it fits.
    u16::try_from((hash ^ (hash >> 16)) % u32::from(OUTBOX_SHARDS)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_that_is_a_uuid_stays_itself_and_others_are_stable() {
        let id = new();
        assert_eq!(from_subject("https://issuer", &id.to_string()), id);
        let first = from_subject("https://issuer", "alice");
        assert_eq!(first, from_subject("https://issuer", "alice"));
        assert_ne!(first, from_subject("https://other", "alice"));
    }

    #[test]
    fn packed_ids_come_back_and_a_cut_one_is_refused() {
        let ids = [new(), new()];
        let packed = pack(&ids);
        assert_eq!(unpack("recipients", &packed).unwrap().collect::<Vec<_>>(), ids);
        let error = unpack("recipients", &packed[1..]).err().unwrap();
        assert_eq!(error.to_string(), "recipients is 31 bytes; an id is 16 bytes (a UUID)");
    }

    #[test]
    fn shards_are_stable_and_all_are_used() {
        assert_eq!(outbox_shard(&Uuid::nil()), 12);
        let mut used = [0; OUTBOX_SHARDS as usize];
        for _ in 0..1600 {
            used[usize::from(outbox_shard(&new()))] += 1;
        }
        assert!(used.iter().all(|count| (40..250).contains(count)), "{used:?}");
    }
}

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

/// The outbox shard of a record's key (a conversation or a user), from 0 to `OUTBOX_SHARDS - 1`; the
/// same in every build for ever.
///
/// Taken from the hash by which Kafka's clients choose the partition of a key: where the partitions
/// are a power of two up to the number of shards, a shard is all in one partition, and what a relay
/// reads from few shards goes to few partitions in large batches.
#[must_use]
pub fn outbox_shard(id: &Uuid) -> u16 {
    // The sign bit is dropped, as Kafka does. Below the shard count, so it fits.
    let hash = murmur2(id.as_bytes()) & 0x7fff_ffff;
    u16::try_from(hash % u32::from(OUTBOX_SHARDS)).unwrap_or_default()
}

/// MurmurHash2 with the seed of Kafka's Java client (`Utils.murmur2`).
fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Lengths here are those of keys.
    let mut hash = SEED ^ u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in (0_u32..).zip(tail) {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
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
        assert_eq!(outbox_shard(&Uuid::nil()), 8);
        let mut used = [0; OUTBOX_SHARDS as usize];
        for _ in 0..1600 {
            used[usize::from(outbox_shard(&new()))] += 1;
        }
        assert!(used.iter().all(|count| (40..250).contains(count)), "{used:?}");
    }

    #[test]
    fn keys_are_hashed_as_kafka_hashes_them() {
        // What Kafka's own tests expect of its clients.
        let known: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }
}

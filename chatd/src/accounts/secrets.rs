//! Random secrets, of which the database keeps the hash alone.

use crate::failure::Failure;
use crate::limits::SECRET_TEXT_BYTES_MAX;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::error::ErrorCode;
use sha2::{Digest, Sha256};

/// A fresh secret of `BYTES` random bytes, as text that is safe in URLs and files.
pub(super) fn fresh<const BYTES: usize>() -> Result<String, Failure> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, error_code = "internal", "no randomness");
        Failure::new(ErrorCode::Internal, "the request could not be done")
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// What the database keeps. The secrets are random and long, so a plain hash cannot be reversed.
pub(super) fn hash(secret: &str) -> Vec<u8> {
    // A text that is too long is no secret of ours: hashed as it is, it just matches nothing.
    let bounded = secret.as_bytes().get(..SECRET_TEXT_BYTES_MAX).unwrap_or(secret.as_bytes());
    Sha256::digest(bounded).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_distinct_and_safe_in_urls() {
        let (one, two) = (fresh::<20>().unwrap(), fresh::<20>().unwrap());
        assert_ne!(one, two);
        assert!(one.len() == 27 && one.len() <= SECRET_TEXT_BYTES_MAX);
        assert!(one.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-' || it == b'_'));
        assert_ne!(hash(&one), hash(&two));
        assert_eq!(hash(&one), hash(&one));
    }
}

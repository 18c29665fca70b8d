//! Passwords: Argon2id (RFC 9106), with the parameters kept in each hash so that they can be raised.

use crate::failure::Failure;
use crate::limits::{
    ARGON2_LANES, ARGON2_MEMORY_KIB, ARGON2_PASSES, PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN,
};
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use proto::error::ErrorCode;
use std::sync::OnceLock;

/// Checks the length and hashes; takes some tens of milliseconds of processor time.
pub(crate) fn hash_password(password: &str) -> Result<String, Failure> {
    let bytes = password.len();
    if !(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&bytes) {
        return Err(Failure::invalid(format!(
            "password is {bytes} bytes; {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} are required"
        )));
    }
    let hash = hasher()?.hash_password(password.as_bytes()).map_err(|error| failed(&error))?;
    Ok(hash.to_string())
}

/// Is it the password? Without a hash (no such user, or one without a password) it takes as long and
/// is never right, so that the time does not tell which names exist.
pub(crate) fn verify_password(password: &str, hash: Option<&str>) -> Result<bool, Failure> {
    // A longer one was never accepted; do not spend time on it.
    let password = password.as_bytes().get(..PASSWORD_BYTES_MAX + 1).unwrap_or(password.as_bytes());
    let text = match hash {
        Some(hash) => hash,
        None => decoy()?,
    };
    let parsed = PasswordHash::new(text).map_err(|error| failed(&error))?;
    Ok(hasher()?.verify_password(password, &parsed).is_ok() && hash.is_some())
}

fn hasher() -> Result<Argon2<'static>, Failure> {
    let params = Params::new(ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES, None)
        .map_err(|error| failed(&error))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// The hash of a password that nobody has.
fn decoy() -> Result<&'static str, Failure> {
    static DECOY: OnceLock<String> = OnceLock::new();
    if let Some(decoy) = DECOY.get() {
        return Ok(decoy);
    }
    let hash = hash_password(&proto::id::new().to_string())?;
    Ok(DECOY.get_or_init(|| hash))
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    tracing::error!(%error, error_code = "internal", "a password could not be hashed");
    Failure::new(ErrorCode::Internal, "the request could not be done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_matches_its_hash() {
        let hash = hash_password("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(verify_password("correct horse", Some(&hash)).unwrap());
        assert!(!verify_password("correct horsf", Some(&hash)).unwrap());
        assert!(!verify_password("correct horse", None).unwrap());
        assert_ne!(hash, hash_password("correct horse").unwrap(), "each hash has its own salt");
    }

    #[test]
    fn a_password_of_the_wrong_length_is_refused() {
        assert_eq!(
            hash_password("seven77").unwrap_err().message,
            "password is 7 bytes; 8 to 256 are required"
        );
        assert!(hash_password(&"p".repeat(257)).is_err());
        let hash = hash_password(&"p".repeat(256)).unwrap();
        assert!(!verify_password(&"p".repeat(1_000_000), Some(&hash)).unwrap());
    }
}

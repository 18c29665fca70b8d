//! The link's handshake: both sides prove that they know the shared secret without sending it.
//!
//! ```text
//! server --> Challenge { nonce }                       client
//! client --> Proof { nonce', HMAC(secret, "client" nonce nonce' instance) }
//! server --> Ready { HMAC(secret, "server" nonce nonce' instance) }
//! ```
//! HMAC-SHA-256 (RFC 2104); compared in constant time.

use crate::link::{Challenge, Proof, Ready};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The version of the link that this build speaks.
pub const LINK_VERSION: u32 = 1;
/// Bytes of each side's nonce.
pub const NONCE_BYTES: usize = 32;
/// Frames larger than this are refused until the handshake is done.
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 512;

/// Why a peer was turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("the peer speaks link version {0}; this build speaks {LINK_VERSION}")]
    Version(u32),
    #[error("the peer's nonce is {0} bytes; {NONCE_BYTES} are required")]
    Nonce(usize),
    #[error("the peer does not know the link secret (link.secret differs)")]
    Secret,
}

/// The server's opening; `nonce` must be fresh randomness.
#[must_use]
pub fn challenge(nonce: [u8; NONCE_BYTES]) -> Challenge {
    Challenge { version: LINK_VERSION, nonce: nonce.to_vec() }
}

/// The client's answer; `nonce` must be fresh randomness.
pub fn prove(
    secret: &[u8],
    challenge: &Challenge,
    nonce: [u8; NONCE_BYTES],
    instance: &str,
) -> Result<Proof, HandshakeError> {
    check(challenge.version, &challenge.nonce)?;
    let mac = mac(secret, b"client", &challenge.nonce, &nonce, instance);
    Ok(Proof {
        version: LINK_VERSION,
        nonce: nonce.to_vec(),
        mac: mac.finalize().into_bytes().to_vec(),
        instance: instance.to_owned(),
    })
}

/// The server's verdict on the client's proof, and its own.
pub fn accept(
    secret: &[u8],
    challenge: &Challenge,
    proof: &Proof,
    instance: &str,
) -> Result<Ready, HandshakeError> {
    check(proof.version, &proof.nonce)?;
    mac(secret, b"client", &challenge.nonce, &proof.nonce, &proof.instance)
        .verify_slice(&proof.mac)
        .map_err(|_| HandshakeError::Secret)?;
    let mac = mac(secret, b"server", &challenge.nonce, &proof.nonce, instance);
    Ok(Ready { mac: mac.finalize().into_bytes().to_vec(), instance: instance.to_owned() })
}

/// The client's verdict on the server.
pub fn confirm(
    secret: &[u8],
    challenge: &Challenge,
    proof: &Proof,
    ready: &Ready,
) -> Result<(), HandshakeError> {
    mac(secret, b"server", &challenge.nonce, &proof.nonce, &ready.instance)
        .verify_slice(&ready.mac)
        .map_err(|_| HandshakeError::Secret)
}

fn check(version: u32, nonce: &[u8]) -> Result<(), HandshakeError> {
    if version != LINK_VERSION {
        return Err(HandshakeError::Version(version));
    }
    if nonce.len() != NONCE_BYTES {
        return Err(HandshakeError::Nonce(nonce.len()));
    }
    Ok(())
}

fn mac(secret: &[u8], role: &[u8], server: &[u8], client: &[u8], instance: &str) -> Hmac<Sha256> {
    #[allow(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104 section 2)")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    for part in [role, server, client, instance.as_bytes()] {
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"a secret of enough bytes";

    #[test]
    fn both_sides_agree_with_one_secret() {
        let challenge = challenge([1; NONCE_BYTES]);
        let proof = prove(SECRET, &challenge, [2; NONCE_BYTES], "gateway-1").unwrap();
        let ready = accept(SECRET, &challenge, &proof, "chatd").unwrap();
        assert_eq!(confirm(SECRET, &challenge, &proof, &ready), Ok(()));
    }

    #[test]
    fn another_secret_a_replay_and_another_version_are_refused() {
        let first = challenge([1; NONCE_BYTES]);
        let proof = prove(b"another secret", &first, [2; NONCE_BYTES], "gateway-1").unwrap();
        assert_eq!(accept(SECRET, &first, &proof, "chatd"), Err(HandshakeError::Secret));
        let good = prove(SECRET, &first, [2; NONCE_BYTES], "gateway-1").unwrap();
        let second = challenge([3; NONCE_BYTES]);
        assert_eq!(accept(SECRET, &second, &good, "chatd"), Err(HandshakeError::Secret));
        let other = Proof { version: 2, ..good };
        assert_eq!(accept(SECRET, &first, &other, "chatd"), Err(HandshakeError::Version(2)));
    }
}

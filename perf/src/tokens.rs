//! Access tokens, signed with the stack's own key.

use crate::failure::{Context, Failure, Outcome};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proto::Uuid;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Hex digits of the public key's hash that name a key.
const KEY_ID_DIGITS: usize = 16;
/// No run may outlive its tokens.
const LIFETIME_S: u64 = 8 * 24 * 3_600;

/// Signs tokens for any user and device.
pub(crate) struct Minter {
    key: EncodingKey,
    header: Header,
}

#[derive(Serialize)]
struct Claims {
    iss: &'static str,
    aud: &'static str,
    sub: Uuid,
    did: Uuid,
    iat: u64,
    exp: u64,
    jti: Uuid,
}

impl Minter {
    /// Reads the stack's private key (PKCS#8 PEM, Ed25519).
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        let shown = path.display();
        let pem = std::fs::read(path).reaching(&shown)?;
        let key = EncodingKey::from_ed_pem(&pem).reaching(&shown)?;
        let jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).reaching(&shown)?;
        let AlgorithmParameters::OctetKeyPair(pair) = jwk.algorithm else {
            return Err(Failure::Unreachable(format!("{shown} holds no Ed25519 key")));
        };
        let public = URL_SAFE_NO_PAD.decode(pair.x).reaching(&shown)?;
        let digits: String = Sha256::digest(public).iter().map(|it| format!("{it:02x}")).collect();
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some("at+jwt".into());
        header.kid = digits.get(..KEY_ID_DIGITS).map(str::to_owned);
        Ok(Self { key, header })
    }

    pub(crate) fn mint(&self, user: Uuid, device: Uuid) -> Outcome<String> {
        let iat = daemon::clock::now_us() / 1_000_000;
        let claims = Claims {
            iss: "realchat",
            aud: "realchat",
            sub: user,
            did: device,
            iat,
            exp: iat + LIFETIME_S,
            jti: proto::id::new(),
        };
        jsonwebtoken::encode(&self.header, &claims, &self.key).doing("an access token")
    }
}

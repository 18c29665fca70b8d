//! Access tokens, verified offline: JWT (RFC 7519) as JWS (RFC 7515), signed with Ed25519 by the one
//! issuer whose keys the gateway was given.
//!
//! The algorithm is pinned before anything else of the token is looked at; the key id is looked up
//! in the configured set and nowhere else; `jku`, `jwk`, `x5u` and their kin have no effect.

mod remembered;

use crate::limits::{
    TOKEN_BYTES_MAX, TOKEN_KEYS_MAX, TOKEN_NOT_BEFORE_LEEWAY_S, TOKEN_SUBJECT_BYTES_MAX,
};
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use proto::Uuid;
use proto::error::ErrorCode;
use remembered::Remembered;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;

/// The `typ` of an access token (RFC 9068).
const TYPE: &str = "at+jwt";
const ED25519_KEY_BYTES: usize = 32;

/// Whom a token is for and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) user: Uuid,
    pub(crate) device: Uuid,
    /// Seconds since the Unix epoch; the token is no longer valid then.
    pub(crate) expires_at_s: u64,
}

/// Why a token is refused; says what is required, and nothing of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the gateway has no verification keys yet; try again")]
    NoKeys,
    #[error(
        "the token is no JWT: three base64url parts of at most {TOKEN_BYTES_MAX} bytes in all are required"
    )]
    Malformed,
    #[error("the token's algorithm is not allowed; EdDSA is required")]
    Algorithm,
    #[error("the token's typ is not allowed; {TYPE} is required")]
    Type,
    #[error("the token's header has extensions (crit, enc or zip); none is allowed")]
    Extension,
    #[error("the token's kid is missing or names no key of the issuer")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token's claim {claim} is missing or wrong; {required} is required")]
    Claim { claim: &'static str, required: &'static str },
    #[error("the token has expired; refresh it")]
    Expired,
}

impl TokenError {
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::NoKeys => ErrorCode::Unavailable,
            Self::Expired => ErrorCode::TokenExpired,
            _ => ErrorCode::TokenInvalid,
        }
    }
}

/// The issuer's keys, and what its tokens must say.
#[derive(Debug)]
pub(crate) struct Verifier {
    keys: HashMap<String, DecodingKey>,
    issuer: String,
    audience: String,
    /// Good under these keys, so it ends with them.
    remembered: Remembered,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Key {
    kty: String,
    crv: Option<String>,
    kid: Option<String>,
    x: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
}

/// As they came: the checks say what is wrong with each.
#[derive(Deserialize)]
struct RawClaims {
    iss: Option<Value>,
    aud: Option<Value>,
    sub: Option<Value>,
    did: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
}

impl Verifier {
    /// Refuses every token, retryably: for the time before the first keys came.
    pub(crate) fn empty() -> Self {
        Self {
            keys: HashMap::new(),
            issuer: String::new(),
            audience: String::new(),
            remembered: Remembered::empty(),
        }
    }

    /// Takes the Ed25519 signing keys of a JWKS (RFC 7517, RFC 8037) and leaves others out; an
    /// error if none is left.
    pub(crate) fn from_jwks(jwks: &str, issuer: &str, audience: &str) -> Result<Self, String> {
        let set: KeySet =
            serde_json::from_str(jwks).map_err(|error| format!("no JWKS (RFC 7517): {error}"))?;
        if set.keys.len() > TOKEN_KEYS_MAX {
            return Err(format!("{} keys; at most {TOKEN_KEYS_MAX} allowed", set.keys.len()));
        }
        if issuer.is_empty() || audience.is_empty() {
            return Err("issuer and audience are required".to_owned());
        }
        let mut keys = HashMap::new();
        for value in set.keys {
            let Some((kid, key)) = usable(value)? else { continue };
            if keys.insert(kid, key).is_some() {
                return Err("two keys have the same kid".to_owned());
            }
        }
        if keys.is_empty() {
            return Err("no Ed25519 signing key with a kid in the JWKS".to_owned());
        }
        let remembered = Remembered::new();
        Ok(Self { keys, issuer: issuer.to_owned(), audience: audience.to_owned(), remembered })
    }

    /// `now_s`: seconds since the Unix epoch.
    pub(crate) fn verify(&self, token: &str, now_s: u64) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let digest = remembered::digest(token);
        if !self.remembered.has(digest) {
            self.verify_signature(token)?;
        }
        // The signature is good: what follows was said by the issuer.
        let raw = insecure_decode_claims(token).map_err(|_| TokenError::Malformed)?;
        let claims = self.check(&raw, now_s)?;
        self.remembered.remember(digest);
        Ok(claims)
    }

    fn verify_signature(&self, token: &str) -> Result<(), TokenError> {
        if token.split('.').filter(|it| !it.is_empty()).count() != 3 {
            return Err(TokenError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|error| match error.kind() {
            // An algorithm that the library does not even know, `none` among them.
            jsonwebtoken::errors::ErrorKind::Json(inner) if inner.is_data() => {
                TokenError::Algorithm
            }
            _ => TokenError::Malformed,
        })?;
        if header.alg != Algorithm::EdDSA {
            return Err(TokenError::Algorithm);
        }
        if self.keys.is_empty() {
            return Err(TokenError::NoKeys);
        }
        if !header.typ.as_deref().is_some_and(|it| it.eq_ignore_ascii_case(TYPE)) {
            return Err(TokenError::Type);
        }
        if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err(TokenError::Extension);
        }
        let key = header.kid.as_ref().and_then(|kid| self.keys.get(kid));
        let key = key.ok_or(TokenError::UnknownKey)?;
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        match crypto::verify(signature, message.as_bytes(), key, Algorithm::EdDSA) {
            Ok(true) => Ok(()),
            Ok(false) => Err(TokenError::Signature),
            Err(_) => Err(TokenError::Malformed),
        }
    }

    fn check(&self, raw: &RawClaims, now_s: u64) -> Result<Claims, TokenError> {
        let wrong = |claim, required| TokenError::Claim { claim, required };
        if text(raw.iss.as_ref()) != Some(&self.issuer) {
            return Err(wrong("iss", "the configured issuer"));
        }
        let audience = match &raw.aud {
            Some(Value::Array(all)) => all.iter().any(|it| it.as_str() == Some(&self.audience)),
            one => text(one.as_ref()) == Some(&self.audience),
        };
        if !audience {
            return Err(wrong("aud", "the configured audience"));
        }
        let expires_at_s = raw.exp.as_ref().and_then(Value::as_u64);
        let expires_at_s = expires_at_s.ok_or(wrong("exp", "a whole number of seconds"))?;
        if expires_at_s <= now_s {
            return Err(TokenError::Expired);
        }
        if let Some(not_before) = &raw.nbf
            && not_before.as_u64().is_none_or(|it| it > now_s + TOKEN_NOT_BEFORE_LEEWAY_S)
        {
            return Err(wrong("nbf", "a whole number of seconds that lies in the past"));
        }
        let subject = text(raw.sub.as_ref())
            .filter(|it| (1..=TOKEN_SUBJECT_BYTES_MAX).contains(&it.len()))
            .ok_or(wrong("sub", "the user's id"))?;
        let device = text(raw.did.as_ref()).and_then(|it| Uuid::parse_str(it).ok());
        let device = device.ok_or(wrong("did", "the device's id (a UUID)"))?;
        let user = proto::id::from_subject(&self.issuer, subject);
        Ok(Claims { user, device, expires_at_s })
    }
}

fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str)
}

/// The key of a JWK that may verify our tokens; None for keys of another kind.
fn usable(value: Value) -> Result<Option<(String, DecodingKey)>, String> {
    let key: Key = serde_json::from_value(value).map_err(|error| format!("no JWK: {error}"))?;
    let is_ours = key.kty == "OKP"
        && key.crv.as_deref() == Some("Ed25519")
        && key.usage.as_deref().is_none_or(|usage| usage == "sig")
        && key.alg.as_deref().is_none_or(|alg| alg == "EdDSA" || alg == "Ed25519");
    let (Some(kid), Some(x), true) = (key.kid, key.x, is_ours) else { return Ok(None) };
    let decoded = DecodingKey::from_ed_components(&x);
    let bytes = decoded.as_ref().ok().and_then(|it| it.try_get_as_bytes().ok());
    if bytes.map(<[u8]>::len) != Some(ED25519_KEY_BYTES) {
        return Err(format!("the key {kid:?} is no Ed25519 public key: 32 bytes are required"));
    }
    Ok(decoded.ok().map(|decoded| (kid, decoded)))
}

#[cfg(test)]
mod tests;

//! Access tokens: short-lived JWTs (RFC 7519, profile RFC 9068) that gateways verify offline.

use super::identity::Identity;
use super::signing_key::read_or_make;
use crate::failure::Failure;
use crate::limits::ACCESS_TOKEN_BYTES_MAX;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use proto::Uuid;
use proto::error::ErrorCode;
use proto::link::JwksResult;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The tokens' type (RFC 9068 section 2.1).
const TOKEN_TYPE: &str = "at+jwt";

/// Whose tokens, for whom, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct TokensSettings {
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) access_lifetime_s: u64,
}

/// A signed access token.
pub(crate) struct AccessToken {
    pub(crate) token: String,
    pub(crate) expires_in_s: u64,
}

/// Signs and verifies access tokens.
pub(crate) struct Tokens {
    settings: TokensSettings,
    header: Header,
    key_id: String,
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
    jwks: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: Uuid,
    did: Uuid,
    iat: u64,
    exp: u64,
    jti: Uuid,
}

impl Tokens {
    /// Reads the signing key, or makes one. An error is one line for a person.
    pub(crate) fn load(path: &Path, settings: TokensSettings) -> Result<Self, String> {
        let place = path.display();
        let pem = read_or_make(path)
            .map_err(|error| format!("tokens.signing_key {place}: cannot be read: {error}"))?;
        Self::new(&pem, settings).map_err(|error| {
            format!("tokens.signing_key {place}: is no Ed25519 key in PKCS#8 PEM: {error}")
        })
    }

    fn new(pem: &str, settings: TokensSettings) -> Result<Self, jsonwebtoken::errors::Error> {
        let signing = EncodingKey::from_ed_pem(pem.as_bytes())?;
        let AlgorithmParameters::OctetKeyPair(public) =
            Jwk::from_encoding_key(&signing, Algorithm::EdDSA)?.algorithm
        else {
            return Err(ErrorKind::InvalidKeyFormat.into());
        };
        let public_key = URL_SAFE_NO_PAD
            .decode(&public.x)
            .map_err(|_| jsonwebtoken::errors::Error::from(ErrorKind::InvalidKeyFormat))?;
        let key_id: String =
            Sha256::digest(public_key)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let jwk = serde_json::json!({
            "kty": "OKP", "crv": "Ed25519", "x": public.x, "kid": key_id,
            "alg": "EdDSA", "use": "sig",
        });
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TOKEN_TYPE.to_owned());
        header.kid = Some(key_id.clone());
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = 0;
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Ok(Self {
            header,
            key_id,
            verifying: DecodingKey::from_ed_components(&public.x)?,
            signing,
            validation,
            jwks: serde_json::json!({ "keys": [jwk] }).to_string(),
            settings,
        })
    }

    pub(crate) fn sign(&self, identity: Identity) -> Result<AccessToken, Failure> {
        let now_s = daemon::clock::now_us() / 1_000_000;
        let claims = Claims {
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            sub: identity.user_id,
            did: identity.device_id,
            iat: now_s,
            exp: now_s + self.settings.access_lifetime_s,
            jti: proto::id::new(),
        };
        let token =
            jsonwebtoken::encode(&self.header, &claims, &self.signing).map_err(|error| {
                tracing::error!(%error, error_code = "internal", "a token could not be signed");
                Failure::new(ErrorCode::Internal, "the request could not be done")
            })?;
        Ok(AccessToken { token, expires_in_s: self.settings.access_lifetime_s })
    }

    /// Whose token it is. The algorithm and the key are ours, whatever the token's header says.
    pub(crate) fn verify(&self, token: &str) -> Result<Identity, Failure> {
        let invalid =
            || Failure::new(ErrorCode::TokenInvalid, "the access token is none of this service's");
        if token.len() > ACCESS_TOKEN_BYTES_MAX {
            return Err(invalid());
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| invalid())?;
        let is_ours = header.alg == Algorithm::EdDSA
            && header.kid.as_deref() == Some(self.key_id.as_str())
            && header.typ.as_deref() == Some(TOKEN_TYPE)
            && header.crit.is_none();
        if !is_ours {
            return Err(invalid());
        }
        match jsonwebtoken::decode::<Claims>(token, &self.verifying, &self.validation) {
            Ok(data) => Ok(Identity { user_id: data.claims.sub, device_id: data.claims.did }),
            Err(error) if *error.kind() == ErrorKind::ExpiredSignature => {
                let message = "the access token expired; get a fresh one with the refresh token";
                Err(Failure::new(ErrorCode::TokenExpired, message))
            }
            Err(_) => Err(invalid()),
        }
    }

    /// The public keys (RFC 7517), as JSON.
    pub(crate) fn jwks(&self) -> &str {
        &self.jwks
    }

    pub(crate) fn jwks_result(&self) -> JwksResult {
        JwksResult {
            jwks: self.jwks.clone(),
            issuer: self.settings.issuer.clone(),
            audience: self.settings.audience.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";

    fn tokens() -> Tokens {
        let settings = TokensSettings {
            issuer: "realchat".into(),
            audience: "realchat".into(),
            access_lifetime_s: 900,
        };
        Tokens::new(PEM, settings).unwrap()
    }

    fn identity() -> Identity {
        Identity { user_id: Uuid::from_u128(1), device_id: Uuid::from_u128(2) }
    }

    fn forged(tokens: &Tokens, header: Header, change: impl Fn(&mut Value)) -> ErrorCode {
        let now_s = daemon::clock::now_us() / 1_000_000;
        let mut claims = json!({
            "iss": "realchat", "aud": "realchat", "sub": Uuid::from_u128(1),
            "did": Uuid::from_u128(2), "iat": now_s, "exp": now_s + 60, "jti": Uuid::from_u128(3),
        });
        change(&mut claims);
        let token = jsonwebtoken::encode(&header, &claims, &tokens.signing).unwrap();
        tokens.verify(&token).map_or_else(|failure| failure.code, |_| ErrorCode::NotFound)
    }

    #[test]
    fn what_was_signed_is_verified() {
        let tokens = tokens();
        let token = tokens.sign(identity()).unwrap();
        assert_eq!(token.expires_in_s, 900);
        assert_eq!(tokens.verify(&token.token).unwrap(), identity());
    }

    #[test]
    fn the_key_id_is_the_public_keys_hash_and_the_key_set_names_it() {
        let tokens = tokens();
        let jwks: Value = serde_json::from_str(tokens.jwks()).unwrap();
        let key = &jwks["keys"][0];
        let public = URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap();
        let hash: String = Sha256::digest(&public).iter().map(|it| format!("{it:02x}")).collect();
        assert_eq!(key["kid"].as_str().unwrap(), &hash[..16]);
        assert_eq!(
            (public.len(), &key["kty"], &key["crv"]),
            (32, &json!("OKP"), &json!("Ed25519"))
        );
    }

    #[test]
    fn wrong_claims_and_headers_are_refused() {
        let tokens = tokens();
        let good = || tokens.header.clone();
        assert_eq!(
            forged(&tokens, good(), |_| {}),
            ErrorCode::NotFound,
            "the unchanged one is good"
        );
        for claim in ["iss", "aud", "sub", "did", "exp"] {
            let removed = forged(&tokens, good(), |it| {
                it.as_object_mut().unwrap().remove(claim);
            });
            assert_eq!(removed, ErrorCode::TokenInvalid, "without {claim}");
            let changed = forged(&tokens, good(), |it| it[claim] = json!("other"));
            assert_eq!(changed, ErrorCode::TokenInvalid, "{claim} changed");
        }
        assert_eq!(forged(&tokens, good(), |it| it["exp"] = json!(1)), ErrorCode::TokenExpired);
        let other_kid = Header { kid: Some("0011223344556677".into()), ..good() };
        assert_eq!(forged(&tokens, other_kid, |_| {}), ErrorCode::TokenInvalid);
        let no_kid = Header { kid: None, ..good() };
        assert_eq!(forged(&tokens, no_kid, |_| {}), ErrorCode::TokenInvalid);
        let plain_type = Header { typ: Some("JWT".into()), ..good() };
        assert_eq!(forged(&tokens, plain_type, |_| {}), ErrorCode::TokenInvalid);
    }

    #[test]
    fn other_algorithms_and_broken_signatures_are_refused() {
        let tokens = tokens();
        let token = tokens.sign(identity()).unwrap().token;
        let (rest, signature) = token.rsplit_once('.').unwrap();
        let claims = rest.split_once('.').unwrap().1;
        for alg in ["none", "HS256", "RS256"] {
            let header = json!({ "alg": alg, "typ": TOKEN_TYPE, "kid": tokens.key_id });
            let header = URL_SAFE_NO_PAD.encode(header.to_string());
            for signature in ["", signature] {
                let forged = format!("{header}.{claims}.{signature}");
                assert_eq!(tokens.verify(&forged).unwrap_err().code, ErrorCode::TokenInvalid);
            }
        }
        for broken in ["", "a.b.c", &token[..token.len() - 4], &"x".repeat(10_000)] {
            assert_eq!(tokens.verify(broken).unwrap_err().code, ErrorCode::TokenInvalid);
        }
    }
}

//! Tokens as attackers and careless issuers make them.

use super::*;
use crate::fuzzing::fuzz;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::crypto::sign;
use serde_json::json;

const NOW_S: u64 = 1_800_000_000;
const ISSUER: &str = "realchat";
const AUDIENCE: &str = "realchat-clients";
const USER: &str = "0190b5a0-0000-7000-8000-000000000001";
const DEVICE: &str = "0190b5a0-0000-7000-8000-000000000002";
const KID: &str = "21fe31dfa154a261";
/// RFC 8032 section 7.1, tests 1 (ours) and 2 (somebody else's).
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
const OTHER_SEED: &str = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
const OTHER_PUBLIC: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// PKCS#8 (RFC 8410) around the seed.
fn signing_key(seed: &str) -> EncodingKey {
    let der = [unhex("302e020100300506032b657004220420"), unhex(seed)].concat();
    EncodingKey::from_ed_der(&der)
}

fn jwk(kid: &str, public: &str) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid,
           "x": encode(unhex(public))})
}

fn verifier() -> Verifier {
    let jwks = json!({"keys": [jwk(KID, PUBLIC)]}).to_string();
    Verifier::from_jwks(&jwks, ISSUER, AUDIENCE).unwrap()
}

fn header() -> Value {
    json!({"alg": "EdDSA", "typ": "at+jwt", "kid": KID})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": USER, "did": DEVICE, "iat": NOW_S - 10,
           "exp": NOW_S + 900, "jti": "1"})
}

/// `base` with one member set, or removed where the value is null.
fn with(mut base: Value, name: &str, value: Value) -> Value {
    let object = base.as_object_mut().unwrap();
    if value.is_null() {
        object.remove(name);
    } else {
        object.insert(name.to_owned(), value);
    }
    base
}

fn signed_text(header: &str, claims: &str, seed: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = sign(message.as_bytes(), &signing_key(seed), Algorithm::EdDSA).unwrap();
    format!("{message}.{signature}")
}

fn signed(header: &Value, claims: &Value) -> String {
    signed_text(&header.to_string(), &claims.to_string(), SEED)
}

fn header_with(name: &str, value: Value) -> String {
    signed(&with(header(), name, value), &claims())
}

fn claims_with(name: &str, value: Value) -> String {
    signed(&header(), &with(claims(), name, value))
}

/// Signed with HMAC under the public key's bytes: algorithm confusion.
fn hmac(algorithm: Algorithm, secret: &[u8]) -> String {
    let header = json!({"alg": format!("{algorithm:?}"), "typ": "at+jwt", "kid": KID});
    let message = format!("{}.{}", encode(header.to_string()), encode(claims().to_string()));
    let key = EncodingKey::from_secret(secret);
    format!("{message}.{}", sign(message.as_bytes(), &key, algorithm).unwrap())
}

fn claim(name: &'static str) -> impl Fn(&TokenError) -> bool {
    move |error| matches!(error, TokenError::Claim { claim, .. } if *claim == name)
}

fn check(name: &str, token: &str, expected: impl Fn(&TokenError) -> bool) {
    let error = verifier().verify(token, NOW_S).expect_err(name);
    assert!(expected(&error), "{name}: {error:?}");
    assert!(matches!(error.code(), ErrorCode::TokenInvalid | ErrorCode::TokenExpired), "{name}");
}

fn is(expected: TokenError) -> impl Fn(&TokenError) -> bool {
    move |error| *error == expected
}

#[test]
fn a_good_token_tells_user_device_and_expiry() {
    let expected = Claims {
        user: USER.parse().unwrap(),
        device: DEVICE.parse().unwrap(),
        expires_at_s: NOW_S + 900,
    };
    for good in [
        signed(&header(), &claims()),
        claims_with("aud", json!(["another", AUDIENCE])),
        claims_with("nbf", json!(NOW_S - 1)),
        header_with("typ", json!("AT+JWT")),
        // Key hints of the token have no effect, good or bad.
        header_with("jku", json!("https://attacker.example/jwks")),
        header_with("x5u", json!("https://attacker.example/certificate")),
        header_with("jwk", jwk(KID, OTHER_PUBLIC)),
    ] {
        assert_eq!(verifier().verify(&good, NOW_S).unwrap(), expected);
    }
    let foreign = verifier().verify(&claims_with("sub", json!("auth0|alice")), NOW_S).unwrap();
    assert_eq!(foreign.user, proto::id::from_subject(ISSUER, "auth0|alice"));
}

#[test]
fn algorithms_other_than_the_pinned_one_are_refused() {
    for name in ["none", "None", "NONE", "nOnE", "", "EDDSA", "Ed448", "eddsa"] {
        check(name, &header_with("alg", json!(name)), is(TokenError::Algorithm));
    }
    for name in ["HS256", "HS384", "HS512", "RS256", "RS512", "PS256", "ES256", "ES384"] {
        check(name, &header_with("alg", json!(name)), is(TokenError::Algorithm));
    }
    for value in [json!(null), json!(1), json!(["EdDSA"]), json!({"EdDSA": 1})] {
        check("alg", &header_with("alg", value), |_| true);
    }
    let unsigned = |alg: &str| {
        let header = with(header(), "alg", json!(alg)).to_string();
        format!("{}.{}.", encode(header), encode(claims().to_string()))
    };
    check("none, unsigned", &unsigned("none"), is(TokenError::Malformed));
    check("EdDSA, unsigned", &unsigned("EdDSA"), is(TokenError::Malformed));
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{PUBLIC}\n-----END PUBLIC KEY-----\n");
    for secret in [unhex(PUBLIC), PUBLIC.into(), encode(unhex(PUBLIC)).into(), pem.into()] {
        for algorithm in [Algorithm::HS256, Algorithm::HS512] {
            check("confusion", &hmac(algorithm, &secret), is(TokenError::Algorithm));
        }
    }
}

#[test]
fn headers_that_do_not_fit_are_refused() {
    for kid in ["", "unknown", "../../etc/passwd", "/dev/null", "' OR 1=1 --", "21FE31DFA154A261"] {
        check(kid, &header_with("kid", json!(kid)), is(TokenError::UnknownKey));
    }
    check("no kid", &header_with("kid", json!(null)), is(TokenError::UnknownKey));
    for typ in ["JWT", "at+jwt+x", "id_token", ""] {
        check(typ, &header_with("typ", json!(typ)), is(TokenError::Type));
    }
    check("no typ", &header_with("typ", json!(null)), is(TokenError::Type));
    check("crit", &header_with("crit", json!(["exp"])), is(TokenError::Extension));
    check("zip", &header_with("zip", json!("DEF")), is(TokenError::Extension));
    check("enc", &header_with("enc", json!("A128GCM")), is(TokenError::Extension));
    let twice = r#"{"alg":"none","alg":"EdDSA","typ":"at+jwt","kid":"21fe31dfa154a261"}"#;
    let any = |_: &TokenError| true;
    check("alg twice", &signed_text(twice, &claims().to_string(), SEED), any);
    for kid in [json!(1), json!(["21fe31dfa154a261"])] {
        check("kid is no text", &header_with("kid", kid), any);
    }
    check("header no object", &signed_text("[]", &claims().to_string(), SEED), any);
    check("header no JSON", &signed_text("alg: EdDSA", &claims().to_string(), SEED), any);
}

#[test]
fn claims_that_do_not_fit_are_refused() {
    let not_uuid = json!("alices-phone");
    let long = json!("s".repeat(TOKEN_SUBJECT_BYTES_MAX + 1));
    for (name, values) in [
        ("iss", vec![json!(null), json!("other"), json!(""), json!([ISSUER]), json!(1)]),
        ("aud", vec![json!(null), json!("other"), json!([]), json!(["other"]), json!({})]),
        ("sub", vec![json!(null), json!(""), json!(1), json!([USER]), long]),
        ("did", vec![json!(null), json!(""), json!(7), not_uuid]),
        ("nbf", vec![json!(NOW_S + 3_600), json!("0"), json!(0.5), json!(-1)]),
        ("exp", vec![json!(null), json!((NOW_S + 900).to_string()), json!(NOW_S as f64 + 0.5)]),
        ("exp", vec![json!(-1), json!(true), json!([NOW_S + 900]), json!(1e300)]),
    ] {
        for value in values {
            check(name, &claims_with(name, value), claim(name));
        }
    }
    for exp in [0, NOW_S - 900, NOW_S - 1, NOW_S] {
        check("expired", &claims_with("exp", json!(exp)), is(TokenError::Expired));
    }
    assert_eq!(TokenError::Expired.code(), ErrorCode::TokenExpired);
    let twice = claims().to_string().replace("\"exp\"", "\"exp\":1,\"exp\"");
    check("exp twice", &signed_text(&header().to_string(), &twice, SEED), |_| true);
    for body in ["null", "[]", "1", "", "{\"exp\":"] {
        check(body, &signed_text(&header().to_string(), body, SEED), |_| true);
    }
}

#[test]
fn signatures_that_do_not_fit_are_refused() {
    let any = |_: &TokenError| true;
    let good = signed(&header(), &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let stolen = signed_text(&header().to_string(), &claims().to_string(), OTHER_SEED);
    check("another's key", &stolen, is(TokenError::Signature));
    let richer = encode(with(claims(), "sub", json!(DEVICE)).to_string());
    check("another body", &format!("{head}.{richer}.{signature}"), is(TokenError::Signature));
    let zeros = encode([0_u8; 64]);
    check("zeros", &format!("{head}.{body}.{zeros}"), is(TokenError::Signature));
    for (name, token) in [
        ("empty", String::new()),
        ("dots", "..".to_owned()),
        ("one part", head.to_owned()),
        ("two parts", format!("{head}.{body}")),
        ("no signature", format!("{head}.{body}.")),
        ("four parts", format!("{good}.{signature}")),
        ("five parts", format!("{good}..")),
        ("leading dot", format!(".{good}")),
        ("truncated", good[..good.len() - 1].to_owned()),
        ("half a signature", good[..good.len() - 43].to_owned()),
        ("padded", format!("{good}==")),
        ("blank", format!("{good} ")),
        ("inner blank", format!("{head}. {body}.{signature}")),
        ("no base64", format!("{head}.{body}.!!!!")),
        ("standard alphabet", format!("{head}.{body}.{}", signature.replace(['-', '_'], "+"))),
        ("longer signature", format!("{head}.{body}.{}", encode([7_u8; 65]))),
        ("non-ascii", format!("{head}.{body}.ä")),
        ("bearer", format!("Bearer {good}")),
        ("huge", format!("{head}.{}.{signature}", "A".repeat(TOKEN_BYTES_MAX))),
    ] {
        check(name, &token, any);
    }
}

#[test]
fn every_flipped_character_of_a_good_token_is_noticed() {
    let good = signed(&header(), &claims());
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert!(verifier().verify(std::str::from_utf8(&bytes).unwrap(), NOW_S).is_err(), "{at}");
    }
}

#[test]
fn key_sets_are_checked_and_without_keys_the_client_may_try_again() {
    let read = |keys: Value| {
        Verifier::from_jwks(&json!({ "keys": keys }).to_string(), ISSUER, AUDIENCE).map(|_| ())
    };
    let rsa = json!({"kty": "RSA", "kid": "r", "n": "AQ", "e": "AQAB"});
    assert!(read(json!([rsa, jwk(KID, PUBLIC), jwk("next", OTHER_PUBLIC)])).is_ok());
    for (keys, reason) in [
        (json!([]), "no Ed25519 signing key"),
        (json!([rsa]), "no Ed25519 signing key"),
        (json!([with(jwk(KID, PUBLIC), "use", json!("enc"))]), "no Ed25519 signing key"),
        (json!([with(jwk(KID, PUBLIC), "kid", json!(null))]), "no Ed25519 signing key"),
        (json!([jwk(KID, PUBLIC), jwk(KID, OTHER_PUBLIC)]), "the same kid"),
        (json!([with(jwk(KID, PUBLIC), "x", json!("AQID"))]), "32 bytes"),
        (json!([with(jwk(KID, PUBLIC), "x", json!("!"))]), "32 bytes"),
        (json!([1]), "no JWK"),
    ] {
        let error = read(keys).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    assert!(Verifier::from_jwks("", ISSUER, AUDIENCE).unwrap_err().contains("no JWKS"));
    let error = Verifier::empty().verify(&signed(&header(), &claims()), NOW_S).unwrap_err();
    assert_eq!((error.code(), error.code().retryable()), (ErrorCode::Unavailable, true));
}

/// What is read of a token; the rest may be anything.
#[derive(Deserialize)]
struct Told {
    iss: Value,
    aud: Value,
    sub: Value,
    did: Value,
    exp: u64,
}

/// A corpus file is a header, a line feed and claims: signed as they are, and, signed by nobody, taken for
/// a token.
#[test]
fn tokens_are_taken_only_where_an_independent_verifier_takes_them() {
    let verifier = verifier();
    let seed = signing_key(SEED);
    let jwt = DecodingKey::from_ed_components(&encode(unhex(PUBLIC))).unwrap();
    let mut validation = jsonwebtoken::Validation::new(Algorithm::EdDSA);
    // It reads and verifies; what the claims must be is compared below.
    validation.validate_aud = false;
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    fuzz("tokens", |input, random| {
        let text = String::from_utf8_lossy(input);
        let (header, claims) = text.split_once('\n').unwrap_or((&text, ""));
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = sign(message.as_bytes(), &seed, Algorithm::EdDSA).unwrap();
        let token = format!("{message}.{signature}");
        if let Ok(taken) = verifier.verify(&token, NOW_S) {
            assert!(taken.expires_at_s > NOW_S);
            let theirs = jsonwebtoken::decode::<Told>(&token, &jwt, &validation);
            let theirs = theirs.unwrap_or_else(|error| panic!("taken, but {error}: {token}"));
            let Told { iss, aud, sub, did, exp } = theirs.claims;
            assert_eq!((iss, exp), (json!(ISSUER), taken.expires_at_s));
            let is_for_us = match &aud {
                Value::Array(all) => all.contains(&json!(AUDIENCE)),
                one => *one == json!(AUDIENCE),
            };
            assert!(is_for_us && sub.is_string() && did.is_string(), "{token}");
            // The same text again is remembered, and is the same.
            assert_eq!(verifier.verify(&token, NOW_S), Ok(taken));
            assert_eq!(verifier.verify(&token, taken.expires_at_s), Err(TokenError::Expired));
            let mut bytes = token.into_bytes();
            let at = random.usize(..bytes.len());
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(bytes).unwrap();
            assert!(verifier.verify(&altered, NOW_S).is_err(), "{altered}");
        }
        assert!(verifier.verify(&text, NOW_S).is_err(), "nobody signed it: {text}");
    });
}

#[test]
fn a_token_and_a_set_of_keys_have_their_largest_size() {
    let padded = |bytes: usize| {
        let mut claims = claims();
        for pad in 0..bytes {
            claims["pad"] = "p".repeat(pad).into();
            // Not every length is one of base64: the header makes up for it.
            for more in 0..4 {
                let token = signed(&with(header(), "jti", "h".repeat(more).into()), &claims);
                if token.len() == bytes {
                    return token;
                }
                if token.len() + 8 < bytes {
                    break;
                }
            }
        }
        panic!("no token of {bytes} bytes");
    };
    assert!(verifier().verify(&padded(TOKEN_BYTES_MAX), NOW_S).is_ok());
    let error = verifier().verify(&padded(TOKEN_BYTES_MAX + 1), NOW_S).unwrap_err();
    assert!(matches!(error, TokenError::Malformed), "{error}");
    let keys = |count: usize| {
        let keys: Vec<_> = (0..count).map(|it| jwk(&it.to_string(), PUBLIC)).collect();
        Verifier::from_jwks(&json!({ "keys": keys }).to_string(), ISSUER, AUDIENCE).map(drop)
    };
    assert!(keys(TOKEN_KEYS_MAX).is_ok());
    assert_eq!(keys(TOKEN_KEYS_MAX + 1).unwrap_err(), "65 keys; at most 64 allowed");
}

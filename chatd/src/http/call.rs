//! One request to an endpoint.

use super::target::Target;
use crate::accounts::Identity;
use crate::failure::Failure;
use proto::Uuid;
use proto::error::ErrorCode;
use serde::de::DeserializeOwned;
use std::time::Instant;

/// A request that found its endpoint; its token, where one is needed, was verified.
#[derive(Debug)]
pub(crate) struct Call {
    /// Who asks; on open endpoints nobody.
    pub(crate) identity: Option<Identity>,
    /// The ids in the path, in order.
    pub(crate) ids: Vec<Uuid>,
    pub(crate) target: Target,
    pub(crate) body: Vec<u8>,
    pub(crate) deadline: Instant,
    pub(crate) traceparent: String,
}

impl Call {
    /// Who asks, on endpoints that need a token.
    pub(crate) fn identity(&self) -> Result<Identity, Failure> {
        self.identity.ok_or_else(|| {
            Failure::new(ErrorCode::TokenMissing, "an Authorization: Bearer header is required")
        })
    }

    /// The path's id at `index`; the endpoint's pattern has as many.
    pub(crate) fn id(&self, index: usize) -> Result<Uuid, Failure> {
        let missing = || Failure::new(ErrorCode::NotFound, "there is nothing at this path");
        self.ids.get(index).copied().ok_or_else(missing)
    }

    /// The first query field of that name.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let field = self.target.query.iter().find(|(field, _)| field == name);
        field.map(|(_, value)| value.as_str())
    }

    /// A query field that is a whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.query(name) else { return Ok(None) };
        let number = text.parse().map_err(|_| {
            Failure::invalid(format!("{name} is {text:?}; a whole number from 0 is required"))
        })?;
        Ok(Some(number))
    }

    /// How many things are asked for: the default, or from 1 to `max`.
    pub(crate) fn limit(&self, default: u64, max: u64) -> Result<u64, Failure> {
        match self.number("limit")? {
            None => Ok(default),
            Some(limit) if (1..=max).contains(&limit) => Ok(limit),
            Some(limit) => {
                Err(Failure::invalid(format!("limit is {limit}; 1 to {max} are allowed")))
            }
        }
    }

    /// A query field that is an id.
    pub(crate) fn query_id(&self, name: &str) -> Result<Option<Uuid>, Failure> {
        self.query(name).map(|text| parse_id(name, text)).transpose()
    }

    /// A query field that is a list, separated by commas.
    pub(crate) fn list(&self, name: &str) -> Option<Vec<&str>> {
        let list = self.query(name)?;
        Some(list.split(',').map(str::trim).filter(|it| !it.is_empty()).collect())
    }

    /// The body, as an object of the fields of `T`.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if let Ok(body) = serde_json::from_slice(&self.body) {
            return Ok(body);
        }
        // Told apart, because the one is a broken client and the other a wrong field.
        let value: serde_json::Value = serde_json::from_slice(&self.body).map_err(|error| {
            Failure::new(ErrorCode::MalformedFrame, format!("the body is no JSON: {error}"))
        })?;
        if !value.is_object() {
            return Err(Failure::invalid("the body must be a JSON object"));
        }
        serde_json::from_value(value)
            .map_err(|error| Failure::invalid(format!("the body's fields: {error}")))
    }
}

/// An id as text.
pub(crate) fn parse_id(name: &str, text: &str) -> Result<Uuid, Failure> {
    Uuid::parse_str(text)
        .map_err(|_| Failure::invalid(format!("{name} is {text:?}; an id is a UUID")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Body {
        text: String,
    }

    fn call(target: &str, body: &str) -> Call {
        Call {
            identity: None,
            ids: vec![],
            target: Target::parse(target).unwrap(),
            body: body.as_bytes().to_vec(),
            deadline: Instant::now(),
            traceparent: String::new(),
        }
    }

    #[test]
    fn a_body_that_is_no_json_and_a_wrong_field_are_told_apart() {
        let code = |body| call("/", body).json::<Body>().map(|it| it.text).map_err(|it| it.code);
        assert_eq!(code(r#"{"text":"hi","later":1}"#), Ok("hi".to_owned()));
        assert_eq!(code(""), Err(ErrorCode::MalformedFrame));
        assert_eq!(code("{"), Err(ErrorCode::MalformedFrame));
        assert_eq!(code("[]"), Err(ErrorCode::InvalidArgument));
        assert_eq!(code(r#"{"text":1}"#), Err(ErrorCode::InvalidArgument));
        assert_eq!(code("{}"), Err(ErrorCode::InvalidArgument));
    }

    #[test]
    fn numbers_are_checked() {
        let limit = |query| call(&format!("/?{query}"), "").limit(50, 200).map_err(|it| it.message);
        assert_eq!(limit(""), Ok(50));
        assert_eq!(limit("limit=200"), Ok(200));
        assert_eq!(limit("limit=0"), Err("limit is 0; 1 to 200 are allowed".to_owned()));
        let huge = "limit=99999999999999999999";
        assert!(limit(huge).unwrap_err().contains("a whole number from 0"));
        assert!(limit("limit=-1").is_err());
        assert_eq!(call("/?ids=a,,b%20", "").list("ids").unwrap(), ["a", "b"]);
    }
}

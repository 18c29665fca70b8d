//! From method and path to an endpoint.

use super::answer::HttpAnswer;
use super::call::{Call, parse_id};
use crate::app::App;
use crate::db::Databases;
use crate::failure::Failure;
use proto::Uuid;

/// One operation of the API.
pub(crate) struct Endpoint {
    pub(crate) method: &'static str,
    /// Segments; `{id}` stands for an id.
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    pub(crate) work: Work,
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Anybody,
    /// Whoever has a valid access token.
    User,
}

type Handler = fn(&App, &mut Databases, &Call) -> Result<HttpAnswer, Failure>;

/// Where an endpoint's work is done.
pub(crate) enum Work {
    /// At once, without the database.
    Immediate(fn(&App) -> HttpAnswer),
    /// On a thread for queries.
    Query(Handler),
    /// On a thread that may hash passwords.
    SignIn(Handler),
    /// By a writer, without holding a thread.
    PostMessage,
}

/// Why there is no endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    Path,
    /// The path exists; the value of `Allow`.
    Method(String),
    /// A segment that must be an id is none.
    Id(Failure),
}

/// The endpoint, and the ids in its path.
pub(crate) fn find<'a>(
    endpoints: &'a [Endpoint],
    method: &str,
    segments: &[String],
) -> Result<(&'a Endpoint, Vec<Uuid>), Missed> {
    let of_path: Vec<&Endpoint> =
        endpoints.iter().filter(|it| matches(it.path, segments)).collect();
    if of_path.is_empty() {
        return Err(Missed::Path);
    }
    let Some(endpoint) = of_path.iter().find(|it| it.method == method) else {
        let methods: Vec<_> = of_path.iter().map(|it| it.method).collect();
        return Err(Missed::Method(methods.join(", ")));
    };
    let ids = parts(endpoint.path).zip(segments).filter(|(part, _)| *part == "{id}");
    let ids = ids.map(|(_, text)| parse_id("the id in the path", text)).collect::<Result<_, _>>();
    ids.map(|ids| (*endpoint, ids)).map_err(Missed::Id)
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.trim_start_matches('/').split('/')
}

fn matches(path: &str, segments: &[String]) -> bool {
    parts(path).count() == segments.len()
        && parts(path).zip(segments).all(|(part, it)| part == "{id}" || part == it)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ENDPOINTS;
    use crate::http::Target;

    fn found(method: &str, path: &str) -> Result<(&'static str, usize), Missed> {
        let target = Target::parse(path).unwrap();
        find(ENDPOINTS, method, &target.segments).map(|(it, ids)| (it.path, ids.len()))
    }

    #[test]
    fn paths_lead_to_endpoints() {
        let id = Uuid::from_u128(7);
        assert_eq!(found("GET", "/v1/me"), Ok(("/v1/me", 0)));
        let member = format!("/v1/conversations/{id}/members/{id}");
        assert_eq!(found("DELETE", &member), Ok(("/v1/conversations/{id}/members/{id}", 2)));
        assert_eq!(found("GET", "/v1/other"), Err(Missed::Path));
        assert_eq!(found("GET", "/v1/me/"), Err(Missed::Path));
        assert_eq!(found("PUT", "/v1/me"), Err(Missed::Method("GET, PATCH".into())));
        assert!(matches!(found("GET", "/v1/conversations/x"), Err(Missed::Id(_))));
    }

    #[test]
    fn endpoints_are_distinct_and_open_ones_are_few() {
        for (index, one) in ENDPOINTS.iter().enumerate() {
            let twice = |other: &Endpoint| (one.method, one.path) == (other.method, other.path);
            assert!(!ENDPOINTS[..index].iter().any(twice), "{} {}", one.method, one.path);
            let is_open = one.path.starts_with("/v1/auth/") || one.path == "/v1/jwks.json";
            assert_eq!(one.access == Access::Anybody, is_open, "{} {}", one.method, one.path);
        }
    }
}

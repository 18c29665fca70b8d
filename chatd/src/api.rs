//! The endpoints of the JSON API.

mod auth;
mod changes;
mod conversations;
mod devices;
mod json;
mod messages;
mod people;

use crate::http::{Access, Endpoint, Work};

pub(crate) use conversations::create_conversation;
pub(crate) use messages::{post_message, sent};

macro_rules! endpoints {
    ($($method:ident $path:literal $access:ident $work:expr;)+) => {
        &[$(Endpoint {
            method: stringify!($method),
            path: $path,
            access: Access::$access,
            work: $work,
        }),+]
    };
}

pub(crate) const ENDPOINTS: &[Endpoint] = endpoints! {
    POST "/v1/auth/register" Anybody Work::SignIn(auth::register);
    POST "/v1/auth/login" Anybody Work::SignIn(auth::login);
    POST "/v1/auth/code" Anybody Work::Query(auth::code);
    POST "/v1/auth/refresh" Anybody Work::Query(auth::refresh);
    POST "/v1/auth/logout" Anybody Work::Query(auth::logout);
    GET "/v1/jwks.json" Anybody Work::Immediate(auth::jwks);
    GET "/v1/me" User Work::Query(people::me);
    PATCH "/v1/me" User Work::Query(people::change_me);
    GET "/v1/users" User Work::Query(people::users);
    GET "/v1/users/{id}" User Work::Query(people::user);
    GET "/v1/conversations" User Work::Query(conversations::list);
    POST "/v1/conversations" User Work::Query(conversations::create);
    GET "/v1/conversations/{id}" User Work::Query(conversations::one);
    PATCH "/v1/conversations/{id}" User Work::Query(conversations::change);
    PUT "/v1/conversations/{id}/mute" User Work::Query(conversations::mute);
    GET "/v1/conversations/{id}/members" User Work::Query(conversations::members);
    POST "/v1/conversations/{id}/members" User Work::Query(conversations::add_members);
    DELETE "/v1/conversations/{id}/members/{id}" User Work::Query(conversations::remove_member);
    GET "/v1/conversations/{id}/events" User Work::Query(messages::events);
    POST "/v1/conversations/{id}/messages" User Work::PostMessage;
    PATCH "/v1/conversations/{id}/messages/{id}" User Work::Query(messages::edit);
    DELETE "/v1/conversations/{id}/messages/{id}" User Work::Query(messages::delete);
    POST "/v1/conversations/{id}/messages/{id}/reactions" User Work::Query(messages::react);
    GET "/v1/conversations/{id}/receipts" User Work::Query(messages::receipts);
    GET "/v1/messages/{id}/trace" User Work::Query(messages::trace);
    GET "/v1/devices" User Work::Query(devices::list);
    DELETE "/v1/devices/{id}" User Work::Query(devices::remove);
};

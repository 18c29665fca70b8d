//! A signed-in user and what it does.

use super::Chatd;
use crossbeam_channel::Receiver;
use proto::Uuid;
use proto::client::{Cursor, Error, Sent};
use proto::link::{Ack, Send, Sync, SyncResult, request::Request, response::Response};
use serde_json::{Value, json};

#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) user_id: Uuid,
    pub(crate) device_id: Uuid,
    pub(crate) token: String,
    pub(crate) refresh_token: String,
}

pub(crate) const PASSWORD: &str = "correct horse battery";

impl Person {
    pub(crate) fn register(chatd: &Chatd, name: &str) -> Self {
        let body = json!({ "name": name, "password": PASSWORD, "device_name": "test" });
        let (status, body) = chatd.http("POST", "/v1/auth/register", None, &body);
        assert_eq!(status, 201, "{body}");
        Self::from_json(&body)
    }

    pub(crate) fn from_json(body: &Value) -> Self {
        Self {
            name: text(&body["name"]),
            user_id: id(&body["user_id"]),
            device_id: id(&body["device_id"]),
            token: text(&body["access_token"]),
            refresh_token: text(&body["refresh_token"]),
        }
    }

    pub(crate) fn call(
        &self,
        chatd: &Chatd,
        method: &str,
        target: &str,
        body: Value,
    ) -> (u32, Value) {
        chatd.http(method, target, Some(&self.token), &body)
    }

    /// A call that must succeed.
    pub(crate) fn done(&self, chatd: &Chatd, method: &str, target: &str, body: Value) -> Value {
        let (status, body) = self.call(chatd, method, target, body);
        assert!((200..300).contains(&status), "{method} {target}: {status} {body}");
        body
    }

    pub(crate) fn get(&self, chatd: &Chatd, target: &str) -> Value {
        self.done(chatd, "GET", target, Value::Null)
    }

    pub(crate) fn create(&self, chatd: &Chatd, members: &[&Person]) -> Uuid {
        let names: Vec<_> = members.iter().map(|it| it.name.as_str()).collect();
        let body = json!({ "title": "Test", "members": names });
        id(&self.done(chatd, "POST", "/v1/conversations", body)["conversation_id"])
    }

    pub(crate) fn send_request(&self, conversation_id: Uuid, key: &str, text: &str) -> Request {
        Request::Send(Send {
            sender_id: self.user_id.as_bytes().to_vec(),
            device_id: self.device_id.as_bytes().to_vec(),
            send: Some(proto::client::Send {
                conversation_id: conversation_id.as_bytes().to_vec(),
                idempotency_key: key.into(),
                text: text.into(),
            }),
        })
    }

    pub(crate) fn submit(
        &self,
        chatd: &Chatd,
        conversation_id: Uuid,
        key: &str,
        text: &str,
    ) -> Receiver<super::chatd::Outcome> {
        chatd.submit(self.send_request(conversation_id, key, text))
    }

    pub(crate) fn send(
        &self,
        chatd: &Chatd,
        conversation_id: Uuid,
        key: &str,
        text: &str,
    ) -> Result<Sent, Error> {
        match chatd.ask(self.send_request(conversation_id, key, text))? {
            Response::Sent(sent) => Ok(sent),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn ack(
        &self,
        chatd: &Chatd,
        conversation_id: Uuid,
        delivered: u64,
        read: u64,
    ) -> Result<(), Error> {
        let request = Request::Ack(Ack {
            user_id: self.user_id.as_bytes().to_vec(),
            device_id: self.device_id.as_bytes().to_vec(),
            ack: Some(proto::client::Ack {
                conversation_id: conversation_id.as_bytes().to_vec(),
                delivered_sequence_number: delivered,
                read_sequence_number: read,
            }),
        });
        chatd.ask(request).map(|response| assert!(matches!(response, Response::Accepted(_))))
    }

    pub(crate) fn sync(
        &self,
        chatd: &Chatd,
        resume: bool,
        cursors: &[(Uuid, u64)],
        limit: u32,
    ) -> SyncResult {
        self.try_sync(chatd, resume, cursors, limit).unwrap()
    }

    pub(crate) fn try_sync(
        &self,
        chatd: &Chatd,
        resume: bool,
        cursors: &[(Uuid, u64)],
        limit: u32,
    ) -> Result<SyncResult, Error> {
        let cursor = |(id, sequence_number): &(Uuid, u64)| Cursor {
            conversation_id: id.as_bytes().to_vec(),
            sequence_number: *sequence_number,
        };
        let request = Request::Sync(Sync {
            user_id: self.user_id.as_bytes().to_vec(),
            resume,
            cursors: cursors.iter().map(cursor).collect(),
            limit,
        });
        chatd.ask(request).map(|response| match response {
            Response::Sync(result) => result,
            other => panic!("{other:?}"),
        })
    }
}

/// Of the events of a page.
pub(crate) fn sequence_numbers(page: &Value) -> Vec<u64> {
    let events = page["events"].as_array().unwrap();
    events.iter().map(|it| it["sequence_number"].as_u64().unwrap()).collect()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

pub(crate) fn id(value: &Value) -> Uuid {
    Uuid::parse_str(&text(value)).unwrap()
}

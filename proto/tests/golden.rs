//! Both encodings of every frame, held against committed vectors (`golden/*.json`).
//!
//! A vector is `{"name", "json", "proto"}`: the frame's JSON form and its protobuf bytes in
//! hexadecimal. After a deliberate, compatible change of the schema the vectors are written anew with
//! `REALCHAT_WRITE_GOLDEN=1 cargo test -p proto --test golden`; the difference belongs in the review.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use proto::Message;
use proto::client::{ClientFrame, ServerFrame, client_frame, event, server_frame};
use proto::json;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

const CLIENT_FRAMES: &str = "client_frames.json";
const SERVER_FRAMES: &str = "server_frames.json";

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

fn vectors(file: &str) -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(path(file)).unwrap()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Checks every vector both ways; gives the names of the kinds that were seen.
fn check<F>(file: &str, decode_json: fn(&str) -> F, kind: fn(&F) -> String) -> BTreeSet<String>
where
    F: Message + Default + PartialEq + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let mut vectors = vectors(file);
    let mut kinds = BTreeSet::new();
    for vector in &mut vectors {
        let name = vector["name"].as_str().unwrap().to_owned();
        let from_json = decode_json(&vector["json"].to_string());
        if std::env::var_os("REALCHAT_WRITE_GOLDEN").is_some() {
            vector["proto"] = hex(&from_json.encode_to_vec()).into();
            vector["json"] = serde_json::to_value(&from_json).unwrap();
            kinds.insert(kind(&from_json));
            continue;
        }
        let bytes = unhex(vector["proto"].as_str().unwrap());
        let from_proto = F::decode(bytes.as_slice()).unwrap();
        assert_eq!(from_proto, from_json, "{name}: the two encodings hold different frames");
        assert_eq!(hex(&from_json.encode_to_vec()), vector["proto"], "{name}: protobuf differs");
        assert_eq!(
            serde_json::to_value(&from_proto).unwrap(),
            vector["json"],
            "{name}: JSON differs"
        );
        kinds.insert(kind(&from_proto));
    }
    if std::env::var_os("REALCHAT_WRITE_GOLDEN").is_some() {
        let text = serde_json::to_string_pretty(&vectors).unwrap();
        std::fs::write(path(file), format!("{text}\n")).unwrap();
    }
    kinds
}

fn client_kind(frame: &ClientFrame) -> String {
    use client_frame::Frame;
    match frame.frame.as_ref().unwrap() {
        Frame::Hello(_) => "hello",
        Frame::Send(_) => "send",
        Frame::Ack(_) => "ack",
        Frame::Typing(_) => "typing",
        Frame::PresenceSubscribe(_) => "presence_subscribe",
        Frame::Sync(_) => "sync",
        Frame::TokenRefresh(_) => "token_refresh",
    }
    .to_owned()
}

/// A new kind of frame or event does not compile here until it has a name, and fails below until
/// it has a vector.
fn server_kind(frame: &ServerFrame) -> String {
    use server_frame::Frame;
    match frame.frame.as_ref().unwrap() {
        Frame::Welcome(_) => "welcome".to_owned(),
        Frame::Sent(_) => "sent".to_owned(),
        Frame::Event(event) => format!("event/{}", event_kind(event.kind.as_ref().unwrap())),
        Frame::Gap(_) => "gap".to_owned(),
        Frame::SyncPage(_) => "sync_page".to_owned(),
        Frame::Synced(_) => "synced".to_owned(),
        Frame::Error(_) => "error".to_owned(),
        Frame::Goaway(_) => "goaway".to_owned(),
        Frame::Accepted(_) => "accepted".to_owned(),
        Frame::TokenAccepted(_) => "token_accepted".to_owned(),
        Frame::Watermark(_) => "watermark".to_owned(),
    }
}

fn event_kind(kind: &event::Kind) -> &'static str {
    use event::Kind;
    match kind {
        Kind::Message(_) => "message",
        Kind::MessageEdited(_) => "message_edited",
        Kind::MessageDeleted(_) => "message_deleted",
        Kind::Reaction(_) => "reaction",
        Kind::MembershipChanged(_) => "membership_changed",
        Kind::SettingsChanged(_) => "settings_changed",
        Kind::Receipt(_) => "receipt",
        Kind::ProfileUpdated(_) => "profile_updated",
        Kind::TypingChanged(_) => "typing_changed",
        Kind::PresenceChanged(_) => "presence_changed",
        Kind::ReceiptSummary(_) => "receipt_summary",
    }
}

#[test]
fn every_client_frame_has_a_vector_that_holds_in_both_encodings() {
    let seen = check(CLIENT_FRAMES, |text| json::decode_client_frame(text).unwrap(), client_kind);
    assert_eq!(seen, json::CLIENT_FRAMES.iter().map(|name| (*name).to_owned()).collect());
}

#[test]
fn every_server_frame_and_event_has_a_vector_that_holds_in_both_encodings() {
    let seen = check(SERVER_FRAMES, |text| serde_json::from_str(text).unwrap(), server_kind);
    let frames = ["welcome", "sent", "gap", "sync_page", "synced", "error", "goaway", "accepted"];
    let events = [
        "message",
        "message_edited",
        "message_deleted",
        "reaction",
        "membership_changed",
        "settings_changed",
        "receipt",
        "profile_updated",
        "typing_changed",
        "presence_changed",
        "receipt_summary",
    ];
    let mut wanted: BTreeSet<_> = frames.iter().map(|name| (*name).to_owned()).collect();
    wanted.extend(["token_accepted", "watermark"].map(str::to_owned));
    wanted.extend(events.iter().map(|name| format!("event/{name}")));
    assert_eq!(seen, wanted);
}

#[test]
fn a_client_frame_that_is_wrong_is_told_why() {
    let id = "018f0000-0000-7000-8000-000000000001";
    for (text, code, message) in [
        ("not json", "malformed_frame", "the frame is no JSON object"),
        ("[]", "malformed_frame", "the frame is no JSON object"),
        ("{}", "unknown_frame", "exactly one of: hello, send"),
        (r#"{"sned":{}}"#, "unknown_frame", "exactly one of: hello, send"),
        (r#"{"send":{},"ack":{}}"#, "unknown_frame", "exactly one of"),
        (r#"{"request_id":-1,"send":{}}"#, "malformed_frame", "request_id must be a whole number"),
        (
            r#"{"request_id":3,"send":{"conversation_id":"x"}}"#,
            "malformed_frame",
            "an id is a UUID",
        ),
        (r#"{"request_id":3,"send":{"text":7}}"#, "malformed_frame", "send: invalid type"),
        (
            r#"{"request_id":3,"ack":{"read_sequence_number":-2}}"#,
            "malformed_frame",
            "ack: invalid",
        ),
    ] {
        let error = json::decode_client_frame(text).unwrap_err();
        assert_eq!(error.code.as_str(), code, "{text}");
        assert!(error.message.contains(message), "{text}: {}", error.message);
    }
    let unknown_field =
        format!(r#"{{"request_id":9,"later":1,"send":{{"conversation_id":"{id}","new":true}}}}"#);
    assert_eq!(json::decode_client_frame(&unknown_field).unwrap().request_id, 9);
}

#[test]
fn an_event_of_a_kind_that_is_not_known_yet_is_read_without_it() {
    let frame: ServerFrame =
        serde_json::from_str(r#"{"event":{"sequence_number":4,"poll_opened":{"x":1}}}"#).unwrap();
    let Some(server_frame::Frame::Event(event)) = frame.frame else { panic!("no event") };
    assert_eq!((event.sequence_number, event.kind), (4, None));
}

//! The documents of the client protocol say what the code does.

#![allow(clippy::unwrap_used, reason = "a test")]

use proto::error;
use serde_json::Value;
use std::path::PathBuf;

fn read(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap()
}

#[test]
fn every_error_code_is_in_the_protocols_document() {
    let text = read("docs/protocol.md");
    for code in error::ALL {
        let word = format!("`{}`", code.as_str());
        assert!(text.contains(&word), "docs/protocol.md does not tell of {word}");
    }
}

/// The examples are written one a line, as JSON.
#[test]
fn the_examples_of_the_asyncapi_document_are_the_golden_vectors() {
    let text = read("docs/asyncapi.yaml");
    let payloads = text.lines().filter_map(|line| line.trim().strip_prefix("payload: {"));
    let examples: Vec<Value> =
        payloads.map(|rest| serde_json::from_str(&format!("{{{rest}")).unwrap()).collect();
    for file in ["client_frames.json", "server_frames.json"] {
        let vectors: Vec<Value> =
            serde_json::from_str(&read(&format!("proto/tests/golden/{file}"))).unwrap();
        for vector in vectors {
            let name = &vector["name"];
            assert!(examples.contains(&vector["json"]), "docs/asyncapi.yaml has no {name}");
        }
    }
}

#[test]
fn every_frame_and_event_has_an_example_in_the_protocols_document() {
    let text = read("docs/protocol.md");
    for file in ["client_frames.json", "server_frames.json"] {
        let vectors: Vec<Value> =
            serde_json::from_str(&read(&format!("proto/tests/golden/{file}"))).unwrap();
        for vector in vectors {
            let frame = vector["json"].as_object().unwrap();
            let kind = frame.keys().find(|key| *key != "request_id").unwrap();
            assert!(text.contains(&format!("\"{kind}\": {{")), "no example of {kind}");
        }
    }
    for kind in ["message_edited", "message_deleted", "reaction", "settings_changed"] {
        assert!(text.contains(&format!("\"{kind}\": {{")), "no example of {kind}");
    }
}

//! Configurations as people write them.

#![allow(clippy::disallowed_methods, reason = "a file is written")]

use super::*;
use crate::capacity::Memory;
use crate::fuzzing::fuzz;
use daemon::config::load_from;

#[test]
fn the_echo_profile_is_for_loopback_listeners_alone() {
    let listen = |all: &[&str]| {
        let all: Vec<String> = all.iter().map(|it| (*it).to_owned()).collect();
        check_loopback(&all)
    };
    assert_eq!(listen(&["127.0.0.1:1", "[::1]:2", "127.8.8.8:3"]), Ok(()));
    for bad in ["0.0.0.0:8080", "[::]:1", "192.0.2.1:1", "localhost:1", "example.org:1"] {
        let error = listen(&["127.0.0.1:1", bad]).unwrap_err();
        assert!(error.starts_with("conformance.echo: ") && error.contains(bad), "{error}");
    }
}

/// As a file, whose keys are variables in a second try. Whatever comes is read or refused with words, and
/// what is read can be built from.
#[test]
fn configurations_are_read_or_refused_with_words() {
    let folder = std::env::temp_dir().join(format!("realchat-config-{}", proto::id::new()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("gateway.toml");
    let try_one = |file, variables: Vec<(String, String)>| {
        let config = match load_from("gateway", KEYS, file, variables) {
            Ok(config) => config,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
        let shards = shards(&config, 2);
        match Settings::new(&config, "gateway-1", shards) {
            Ok(settings) => assert!(Memory::of(&config, &settings, shards).total() > 0),
            Err(error) => assert!(!error.is_empty()),
        }
        if let Err(error) = tls_files(&config) {
            assert!(!error.is_empty());
        }
    };
    fuzz("config", |input, _| {
        std::fs::write(&path, input).unwrap();
        try_one(Some(path.as_path()), Vec::new());
        let text = String::from_utf8_lossy(input);
        let variable = |line: &str| {
            let (key, value) = line.split_once(" = ")?;
            let name = format!("REALCHAT_GATEWAY_{}", key.to_uppercase().replace('.', "_"));
            Some((name, value.trim_matches('"').to_owned()))
        };
        try_one(None, text.lines().filter_map(variable).collect());
    });
    std::fs::remove_dir_all(&folder).unwrap();
}

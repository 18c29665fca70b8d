//! `--print-config`: the whole configuration as a TOML file that can be read back.

use super::{COMMON_KEYS, Config, Key, Kind, Value};
use std::fmt::Write;

/// The configuration in force with every key's comment, default and environment variable.
#[must_use]
pub fn print(daemon: &str, keys: &[Key], config: &Config) -> String {
    let mut all: Vec<&Key> = COMMON_KEYS.iter().chain(keys).collect();
    all.sort_by_key(|key| table_and_leaf(key.name).0);
    let mut text = String::new();
    let mut table = "";
    for key in all {
        let (own_table, leaf) = table_and_leaf(key.name);
        if own_table != table {
            let _ = write!(text, "[{own_table}]\n\n");
            table = own_table;
        }
        let _ = write!(
            text,
            "# {}\n# Allowed: {}. Default: {:?}. Environment: {}\n{leaf} = {}\n\n",
            key.doc,
            key.kind.allowed(),
            key.default,
            key.variable(daemon),
            shown(key, config.value(key.name)),
        );
    }
    text
}

fn table_and_leaf(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

fn shown(key: &Key, value: &Value) -> String {
    match (key.kind, value) {
        (Kind::Secret { .. }, _) => "\"\" # not shown".to_owned(),
        (_, Value::Integer(number)) => number.to_string(),
        (_, Value::Boolean(value)) => value.to_string(),
        (_, Value::Text(text)) => toml::Value::String(text.clone()).to_string(),
        (_, Value::List(items)) => {
            let items = items.iter().map(|item| toml::Value::String(item.clone()).to_string());
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_from;

    #[test]
    fn what_is_printed_reads_back_as_the_same_configuration() {
        const KEYS: &[Key] = &[Key {
            name: "kafka.brokers",
            kind: Kind::List { items_max: 4 },
            default: "a:1,b:2",
            doc: "Brokers.",
        }];
        let config = load_from("relay", KEYS, None, []).unwrap();
        let text = print("relay", KEYS, &config);
        let path = std::env::temp_dir().join(format!("realchat-print-{}", proto::id::new()));
        std::fs::write(&path, &text).unwrap();
        let again = load_from("relay", KEYS, Some(&path), []).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(print("relay", KEYS, &again), text);
        assert!(text.contains("REALCHAT_RELAY_KAFKA_BROKERS"), "{text}");
    }
}

//! Putting a configuration together from file, environment and defaults.

use super::{COMMON_KEYS, Config, Key};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value came from, for errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Environment,
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment => f.write_str("the environment"),
            Self::Default => f.write_str("the defaults"),
        }
    }
}

/// A configuration that cannot be used: one line a person can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{file}: cannot be read: {reason}")]
    Unreadable { file: String, reason: String },
    #[error("{file}: is no TOML: {reason}")]
    NotToml { file: String, reason: String },
    #[error("{origin}: unknown key {key}; known are: {known}")]
    UnknownKey { origin: String, key: String, known: String },
    #[error("{origin}: {key} is {value}, but {allowed} is required")]
    BadValue { origin: String, key: String, value: String, allowed: String },
}

/// Loads from `file`, if one is given, and from this process's environment.
pub fn load(daemon: &str, keys: &[Key], file: Option<&Path>) -> Result<Config, ConfigError> {
    load_from(daemon, keys, file, std::env::vars_os().filter_map(utf8_pair))
}

fn utf8_pair((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// Loads from `file` and from the given environment.
pub fn load_from(
    daemon: &str,
    keys: &[Key],
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let all = || COMMON_KEYS.iter().chain(keys);
    let from_file = file.map_or_else(|| Ok(BTreeMap::new()), read_file)?;
    let origin = file.map_or(Source::Default, |path| Source::File(path.to_owned()));
    for name in from_file.keys() {
        if !all().any(|key| key.name == name) {
            let known = all().map(|key| key.name).collect::<Vec<_>>().join(", ");
            let origin = origin.to_string();
            return Err(ConfigError::UnknownKey { origin, key: name.clone(), known });
        }
    }
    let variables = own_variables(daemon, &all().copied().collect::<Vec<_>>(), environment)?;
    let mut values = BTreeMap::new();
    for key in all() {
        let (read, shown, source) = if let Some(text) = variables.get(&key.variable(daemon)) {
            (key.kind.read(text), text.clone(), Source::Environment)
        } else if let Some(value) = from_file.get(key.name) {
            (key.kind.read_toml(value), value.to_string(), origin.clone())
        } else {
            (key.kind.read(key.default), key.default.to_owned(), Source::Default)
        };
        let secret = matches!(key.kind, super::Kind::Secret { .. });
        let value = read.ok_or_else(|| ConfigError::BadValue {
            origin: source.to_string(),
            key: if source == Source::Environment { key.variable(daemon) } else { key.name.into() },
            value: if secret { "(not shown)".into() } else { format!("{shown:?}") },
            allowed: key.kind.allowed(),
        })?;
        values.insert(key.name, value);
    }
    Ok(Config { values })
}

/// The variables of this daemon; one that names no key is an error, as in a file.
fn own_variables(
    daemon: &str,
    keys: &[Key],
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let prefix = format!("REALCHAT_{}_", daemon.to_uppercase());
    let own: BTreeMap<_, _> =
        environment.into_iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
    let known: Vec<_> = keys.iter().map(|key| key.variable(daemon)).collect();
    match own.keys().find(|name| !known.contains(name)) {
        None => Ok(own),
        Some(name) => Err(ConfigError::UnknownKey {
            origin: Source::Environment.to_string(),
            key: name.clone(),
            known: known.join(", "),
        }),
    }
}

fn read_file(path: &Path) -> Result<BTreeMap<String, toml::Value>, ConfigError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        file: file.clone(),
        reason: error.to_string(),
    })?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| ConfigError::NotToml {
        file,
        reason: error.to_string().trim().replace('\n', " "),
    })?;
    let mut flat = BTreeMap::new();
    flatten("", table, &mut flat);
    Ok(flat)
}

fn flatten(prefix: &str, table: toml::Table, flat: &mut BTreeMap<String, toml::Value>) {
    for (name, value) in table {
        let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => flatten(&name, inner, flat),
            value => {
                flat.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    const KEYS: &[Key] = &[
        Key {
            name: "writers.count",
            kind: Kind::Integer { min: 1, max: 8 },
            default: "2",
            doc: "Writer threads.",
        },
        Key {
            name: "link.secret",
            kind: Kind::Secret { bytes_min: 4 },
            default: "",
            doc: "The secret.",
        },
        Key {
            name: "kafka.brokers",
            kind: Kind::List { items_max: 2 },
            default: "a:1",
            doc: "Brokers.",
        },
    ];

    fn with(file: Option<&str>, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let path = std::env::temp_dir().join(format!("realchat-config-{}", proto::id::new()));
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let loaded = load_from("chatd", KEYS, file.map(|_| path.as_path()), variables);
        if file.is_some() {
            std::fs::remove_file(&path).unwrap();
        }
        loaded
    }

    fn error(file: Option<&str>, variables: &[(&str, &str)]) -> String {
        let text = with(file, variables).unwrap_err().to_string();
        text.rsplit('/').next().unwrap().to_owned()
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
        let file = Some("[writers]\ncount = 3\n[kafka]\nbrokers = ['x:1', 'y:2']");
        assert_eq!(with(None, &[]).unwrap().integer("writers.count"), 2);
        let config = with(file, &[]).unwrap();
        assert_eq!(config.integer("writers.count"), 3);
        assert_eq!(config.list("kafka.brokers"), ["x:1", "y:2"]);
        let config = with(file, &[("REALCHAT_CHATD_WRITERS_COUNT", "8")]).unwrap();
        assert_eq!(config.integer("writers.count"), 8);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_origin() {
        let text = error(Some("[writers]\ncuont = 3"), &[]);
        assert!(text.contains(": unknown key writers.cuont; known are: instance"), "{text}");
        let text = error(None, &[("REALCHAT_CHATD_WRITERS_CUONT", "3")]);
        assert!(
            text.contains("the environment: unknown key REALCHAT_CHATD_WRITERS_CUONT"),
            "{text}"
        );
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed_and_a_secret_is_not_shown() {
        let text = error(Some("[writers]\ncount = 9"), &[]);
        assert!(
            text.ends_with(": writers.count is \"9\", but a whole number from 1 to 8 is required")
        );
        let text = error(None, &[("REALCHAT_CHATD_LINK_SECRET", "abc")]);
        assert!(!text.contains("abc") && text.contains("at least 4 bytes"), "{text}");
        assert!(error(Some("[writers"), &[]).contains("is no TOML"));
        assert!(error(Some("[writers]\ncount = '3'"), &[]).contains("a whole number"));
    }
}

//! Configuration: one table of keys per daemon; values come from the environment, else from one
//! TOML file, else from the key's default. Everything is checked before anything starts, and an
//! error names where the value came from, the key, and what is allowed.

mod load;
mod print;
mod value;

pub use load::{Source, load, load_from};
pub use print::print;
pub use value::{Kind, Value};

use std::collections::BTreeMap;
use std::time::Duration;

/// One configuration key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Dotted, e.g. `postgres.url`; the part before the last dot is the TOML table.
    pub name: &'static str,
    pub kind: Kind,
    /// As it would be written in the environment.
    pub default: &'static str,
    /// What it does, with the unit.
    pub doc: &'static str,
}

impl Key {
    /// The environment variable that sets this key, e.g. `REALCHAT_CHATD_POSTGRES_URL`.
    #[must_use]
    pub fn variable(&self, daemon: &str) -> String {
        format!("REALCHAT_{daemon}_{}", self.name.replace('.', "_")).to_uppercase()
    }
}

/// Keys that every daemon has.
pub const COMMON_KEYS: &[Key] = &[
    Key {
        name: "instance",
        kind: Kind::Text { bytes_max: 64 },
        default: "",
        doc: "Name of this process in logs, links and leases; empty: the daemon's name and process id.",
    },
    Key {
        name: "admin.listen",
        kind: Kind::Address,
        default: "127.0.0.1:0",
        doc: "Where /healthz, /readyz and /metrics are served; port 0: any free one (it is logged).",
    },
    Key {
        name: "log.level",
        kind: Kind::OneOf(&["error", "warn", "info", "debug", "trace"]),
        default: "info",
        doc: "The least severe level that is logged.",
    },
    Key {
        name: "log.format",
        kind: Kind::OneOf(&["auto", "json", "text"]),
        default: "auto",
        doc: "`json`: one object a line; `text`: for people; `auto`: text on a terminal, else json.",
    },
];

/// A daemon's configuration, complete and valid.
#[derive(Debug, Clone)]
pub struct Config {
    values: BTreeMap<&'static str, Value>,
}

/// Asking for a key that the daemon did not declare, or as another kind, is a mistake in the
/// program: it shows at the first start, whatever the configuration.
#[allow(clippy::panic, reason = "a mistake in the program, found at its first start")]
impl Config {
    fn value(&self, name: &str) -> &Value {
        self.values.get(name).unwrap_or_else(|| panic!("no configuration key {name} is declared"))
    }

    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        match self.value(name) {
            Value::Text(text) => text,
            other => panic!("{name} is no text: {other:?}"),
        }
    }

    #[must_use]
    pub fn integer(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Integer(number) => *number,
            other => panic!("{name} is no integer: {other:?}"),
        }
    }

    /// An integer that counts things in memory.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        usize::try_from(self.integer(name)).unwrap_or(usize::MAX)
    }

    /// A key whose name ends in `_ms`.
    #[must_use]
    pub fn duration_ms(&self, name: &str) -> Duration {
        Duration::from_millis(self.integer(name))
    }

    #[must_use]
    pub fn boolean(&self, name: &str) -> bool {
        match self.value(name) {
            Value::Boolean(value) => *value,
            other => panic!("{name} is no boolean: {other:?}"),
        }
    }

    #[must_use]
    pub fn list(&self, name: &str) -> &[String] {
        match self.value(name) {
            Value::List(items) => items,
            other => panic!("{name} is no list: {other:?}"),
        }
    }
}

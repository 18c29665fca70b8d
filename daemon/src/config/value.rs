//! What a value may be, and reading one.

/// What a key's value may be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Integer {
        min: u64,
        max: u64,
    },
    Boolean,
    /// UTF-8; may be empty.
    Text {
        bytes_max: usize,
    },
    /// Like text, but never printed or logged; empty where not set.
    Secret {
        bytes_min: usize,
    },
    /// `host:port`.
    Address,
    /// A link's end: `host:port`, or `unix:` and a path.
    LinkAddress,
    OneOf(&'static [&'static str]),
    /// Of text; separated by commas in the environment.
    List {
        items_max: usize,
    },
}

/// A checked value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Integer(u64),
    Boolean(bool),
    Text(String),
    List(Vec<String>),
}

impl Kind {
    /// What is allowed, to end an error with.
    #[must_use]
    pub fn allowed(self) -> String {
        match self {
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Boolean => "true or false".to_owned(),
            Self::Text { bytes_max } => format!("text of at most {bytes_max} bytes"),
            Self::Secret { bytes_min } => format!("a secret of at least {bytes_min} bytes"),
            Self::Address => "host:port".to_owned(),
            Self::LinkAddress => "host:port or unix:/path".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::List { items_max } => format!("a list of at most {items_max} texts"),
        }
    }

    /// Reads text as it stands in the environment or in a default.
    #[must_use]
    pub fn read(self, text: &str) -> Option<Value> {
        match self {
            Self::Integer { min, max } => {
                let number = text.trim().parse().ok()?;
                (min..=max).contains(&number).then_some(Value::Integer(number))
            }
            Self::Boolean => text.trim().parse().ok().map(Value::Boolean),
            Self::Text { bytes_max } => {
                (text.len() <= bytes_max).then(|| Value::Text(text.to_owned()))
            }
            Self::Secret { bytes_min } => {
                (text.is_empty() || text.len() >= bytes_min).then(|| Value::Text(text.to_owned()))
            }
            Self::Address => is_address(text).then(|| Value::Text(text.to_owned())),
            Self::LinkAddress => {
                let is_path = text.strip_prefix("unix:").is_some_and(|path| !path.is_empty());
                (is_path || is_address(text)).then(|| Value::Text(text.to_owned()))
            }
            Self::OneOf(words) => words.contains(&text).then(|| Value::Text(text.to_owned())),
            Self::List { items_max } => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                let items: Vec<_> = items.map(str::to_owned).collect();
                (items.len() <= items_max).then_some(Value::List(items))
            }
        }
    }

    /// Reads a TOML value; numbers and booleans may not be quoted.
    #[must_use]
    pub fn read_toml(self, value: &toml::Value) -> Option<Value> {
        match (self, value) {
            (Self::Integer { .. }, toml::Value::Integer(number)) => self.read(&number.to_string()),
            (Self::Boolean, toml::Value::Boolean(value)) => Some(Value::Boolean(*value)),
            (Self::List { .. }, toml::Value::Array(items)) => {
                let items: Option<Vec<_>> = items.iter().map(toml::Value::as_str).collect();
                self.read(&items?.join(","))
            }
            (Self::Integer { .. } | Self::Boolean | Self::List { .. }, _) => None,
            (_, toml::Value::String(text)) => self.read(text),
            _ => None,
        }
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

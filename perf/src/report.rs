//! What a command prints: one JSON object, or the same values for a person.

use crate::failure::{Context, Outcome};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::io::Write;

/// Prints a report's fields, in their order, to standard output.
pub(crate) fn print(report: &impl Serialize, json: bool) -> Outcome {
    let text = serde_json::to_string(report).doing("the report")?;
    let text = if json { text + "\n" } else { for_people(&text).doing("the report")? };
    std::io::stdout().write_all(text.as_bytes()).doing("standard output")
}

fn for_people(json: &str) -> Result<String, serde_json::Error> {
    let Fields(fields) = serde_json::from_str(json)?;
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines = fields.iter().map(|(name, value)| format!("{name:width$}  {}\n", plain(value)));
    Ok(lines.collect())
}

/// An object's fields in the order in which they stand.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Fields(fields))
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(|it| format!("\n    {}", plain(it))).collect(),
        Value::Object(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or_default();
            fields.iter().map(|(name, it)| format!("\n    {name:width$}  {}", plain(it))).collect()
        }
        _ => value.to_string(),
    }
}

/// Progress, for a person who waits.
macro_rules! progress {
    ($($argument:tt)*) => { eprintln!($($argument)*) };
}
pub(crate) use progress;

/// Rounds for people: three digits after the point.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order() {
        let json = r#"{"zeta":1.5,"a":["one","two"],"mid":"text"}"#;
        let expected = "zeta  1.5\na     \n    one\n    two\nmid   text\n";
        assert_eq!(for_people(json).unwrap(), expected);
        let nested = r#"{"slope":{"relay":1.5,"chatd-1":null}}"#;
        let expected = "slope  \n    chatd-1  null\n    relay    1.5\n";
        assert_eq!(for_people(nested).unwrap(), expected);
    }
}

//! What things cost, as it was measured; kept in a file of JSON.

use crate::failure::{Context, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// No cost of any machine is larger, in any of the units.
const COST_MAX: f64 = 1e15;

/// Units are in the names; `us` is CPU time, of all processes of the part together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Costs {
    /// Text of the messages that were measured.
    pub(super) message_bytes: f64,
    pub(super) chatd_cpu_us_per_send: f64,
    pub(super) postgresql_cpu_us_per_send: f64,
    pub(super) relay_cpu_us_per_record: f64,
    /// To take it and to keep it.
    pub(super) kafka_cpu_us_per_record: f64,
    /// To hand it to one gateway.
    pub(super) kafka_cpu_us_per_record_and_gateway: f64,
    /// Of a gateway that has no session for it.
    pub(super) gateway_cpu_us_per_record: f64,
    pub(super) gateway_cpu_us_per_delivery: f64,
    /// A message that a client sends, on its way in and its answer on the way out.
    pub(super) gateway_cpu_us_per_send: f64,
    pub(super) gateway_cpu_us_per_session_and_s: f64,
    pub(super) presenced_cpu_us_per_session_and_s: f64,
    pub(super) redis_cpu_us_per_session_and_s: f64,
    /// A gateway without a session.
    pub(super) gateway_bytes: f64,
    pub(super) gateway_bytes_per_session_user: f64,
    pub(super) gateway_bytes_per_session_kernel: f64,
    pub(super) redis_bytes_per_session: f64,
    /// On disk, with its indexes.
    pub(super) postgresql_bytes_per_message: f64,
    pub(super) kafka_bytes_per_record: f64,
}

impl Costs {
    pub(super) fn read(path: &Path) -> Outcome<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).doing(shown)?;
        Self::parse(&text).map_err(|words| {
            Failure::Usage(format!(
                "{}: {words}; perf plan --save-costs writes one",
                path.display()
            ))
        })
    }

    pub(super) fn write(&self, path: &Path) -> Outcome {
        let text = serde_json::to_string_pretty(self).doing("the costs")?;
        std::fs::write(path, text + "\n").doing(path.display())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let costs: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let fields = serde_json::to_value(&costs).map_err(|error| error.to_string())?;
        for (name, value) in fields.as_object().into_iter().flatten() {
            let value = value.as_f64().unwrap_or(f64::NAN);
            if !(0.0..=COST_MAX).contains(&value) {
                return Err(format!("{name} is {value}, but 0 to {COST_MAX} is allowed"));
            }
        }
        Ok(costs)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Round numbers, so that plans can be checked by hand.
    pub(in crate::plan) fn round() -> Costs {
        Costs {
            message_bytes: 256.0,
            chatd_cpu_us_per_send: 50.0,
            postgresql_cpu_us_per_send: 100.0,
            relay_cpu_us_per_record: 20.0,
            kafka_cpu_us_per_record: 40.0,
            kafka_cpu_us_per_record_and_gateway: 10.0,
            gateway_cpu_us_per_record: 10.0,
            gateway_cpu_us_per_delivery: 20.0,
            gateway_cpu_us_per_send: 30.0,
            gateway_cpu_us_per_session_and_s: 1.0,
            presenced_cpu_us_per_session_and_s: 2.0,
            redis_cpu_us_per_session_and_s: 1.0,
            gateway_bytes: 100e6,
            gateway_bytes_per_session_user: 500.0,
            gateway_bytes_per_session_kernel: 3_000.0,
            redis_bytes_per_session: 400.0,
            postgresql_bytes_per_message: 800.0,
            kafka_bytes_per_record: 600.0,
        }
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_anything_else_is_refused() {
        let path = std::env::temp_dir().join(format!("costs-{}.json", proto::id::new()));
        round().write(&path).unwrap();
        assert_eq!(Costs::read(&path).unwrap(), round());
        std::fs::remove_file(&path).unwrap();
        assert!(Costs::read(&path).is_err());
        let text = serde_json::to_string(&round()).unwrap();
        let with = |from: &str, to: &str| Costs::parse(&text.replace(from, to)).unwrap_err();
        let error = with("\"relay_cpu_us_per_record\":20.0", "\"relay_cpu_us_per_record\":-1");
        assert_eq!(error, "relay_cpu_us_per_record is -1, but 0 to 1000000000000000 is allowed");
        assert!(with("relay_cpu", "relay_gpu").contains("unknown field"));
        assert!(with("\"relay_cpu_us_per_record\":20.0,", "").contains("missing field"));
    }
}

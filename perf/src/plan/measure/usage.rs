//! CPU time by part.

use crate::failure::{Failure, Outcome};
use crate::latency::per;
use crate::process;
use crate::stack::Stack;
use std::collections::BTreeMap;

/// Nanoseconds of each part, all its processes together: `gateway`, `chatd`, `postgres`, ...
pub(super) struct Usage(BTreeMap<String, u64>);

impl Usage {
    pub(super) fn now(stack: &Stack) -> Outcome<Self> {
        let mut parts = BTreeMap::new();
        for (name, pid) in stack.pids()? {
            let part = name.split('-').next().unwrap_or(&name).to_owned();
            *parts.entry(part).or_default() += process::cpu_ns_with_children(pid)?;
        }
        Ok(Self(parts))
    }

    pub(super) fn since(mut self, before: &Self) -> Self {
        for (part, ns) in &mut self.0 {
            *ns = ns.saturating_sub(before.0.get(part).copied().unwrap_or_default());
        }
        self
    }

    /// Microseconds of a part.
    pub(super) fn us(&self, part: &str) -> Outcome<f64> {
        let ns = self.0.get(part).copied().ok_or_else(|| {
            Failure::Refused(format!("the stack runs no {part} of its own, whose cost is measured"))
        })?;
        Ok(per(ns, 1_000))
    }
}

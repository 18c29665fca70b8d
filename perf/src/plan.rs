//! `perf plan`: how many machines a number of users takes, from costs that are measured in the same
//! run (or were, and are read from a file).
//!
//! ```text
//! stack --> measure: write load, tails, idle sessions, deliveries --> Costs --+
//! --costs FILE ---------------------------------------------------------------+--> model --> Plan
//! options --> Inputs ---------------------------------------------------------+
//! ```

mod costs;
mod measure;
mod model;

use crate::failure::{Failure, Outcome};
use crate::limits::SECONDS_MAX;
use crate::options::{PlanOptions, within};
use crate::report;
use crate::stack::Stack;
use costs::Costs;
use model::Plan;
use serde::Serialize;

pub(crate) use model::Inputs;

/// The shortest quiet time of a measurement, in seconds: the other phases take a quarter of it each.
const QUIET_S_MIN: u64 = 4;

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    plan: Plan,
    costs: Costs,
    inputs: &'a Inputs,
}

pub(crate) fn run(options: &PlanOptions) -> Outcome {
    let inputs = &options.inputs;
    inputs.check()?;
    if options.common.routed {
        let words = "--routed is not for perf plan: it says how many gateways would do either way";
        return Err(Failure::Usage(words.into()));
    }
    let seconds = within("--seconds", options.seconds, QUIET_S_MIN..=SECONDS_MAX)?;
    let costs = match (&options.costs, &options.save_costs) {
        (Some(_), Some(_)) => {
            let words = "--save-costs keeps what is measured, but with --costs nothing is measured";
            return Err(Failure::Usage(words.into()));
        }
        (Some(path), None) => Costs::read(path)?,
        (None, save) => {
            let stack = Stack::of(&options.common, 1)?;
            let costs = measure::costs(&stack, inputs, seconds, options.common.seed)?;
            if let Some(path) = save {
                costs.write(path)?;
            }
            costs
        }
    };
    let plan = model::plan(inputs, &costs)?;
    report::print(&Report { plan, costs, inputs }, options.common.json)
}

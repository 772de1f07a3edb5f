//! Calls that two runs have in common.

use std::collections::BTreeMap;

use serde_json::Value;

use super::story::{Story, Thing};
use crate::run::CallDigest;

/// A call of a run.
#[derive(Debug)]
pub struct CallStory {
    /// `{step}/{index}`
    pub place: String,
    /// Of tool and arguments.
    pub digest: CallDigest,
    /// What the gateway decided; `None` where it was not asked.
    pub verdict: Option<Thing>,
    /// What the model was told.
    pub result: Option<Thing>,
}

/// What a run has of calls that another makes, too, under their places in the run that is compared with.
#[derive(Debug, Default)]
pub struct Common {
    pub verdicts: BTreeMap<String, Thing>,
    pub results: BTreeMap<String, Thing>,
}

/// The calls that both make: the k-th with the same tool and arguments of each. What only one was told or asked is not
/// compared.
pub fn pairs(base: &Story, run: &Story) -> (Common, Common) {
    let (mut of_base, mut of_run) = (Common::default(), Common::default());
    let mut left: BTreeMap<CallDigest, Vec<&CallStory>> = BTreeMap::new();
    for call in run.calls.iter().rev() {
        left.entry(call.digest).or_default().push(call);
    }
    for call in &base.calls {
        let Some(other) = left.get_mut(&call.digest).and_then(Vec::pop) else { continue };
        if let (Some(mine), Some(theirs)) = (&call.verdict, &other.verdict) {
            of_base.verdicts.insert(call.place.clone(), mine.clone());
            of_run.verdicts.insert(call.place.clone(), theirs.clone());
        }
        if let (Some(mine), Some(theirs)) = (&call.result, &other.result) {
            of_base.results.insert(call.place.clone(), mine.clone());
            of_run.results.insert(call.place.clone(), theirs.clone());
        }
    }
    (of_base, of_run)
}

/// The verdict of a decision record with what determined it; `None` where policies did not come to decide.
pub fn verdict(decision_json: &str) -> Option<Thing> {
    let record: Value = serde_json::from_str(decision_json).ok()?;
    let decision = record.get("decision").filter(|decision| decision.is_object());
    let Some(decision) = decision else {
        // A check before the policies.
        let reason = record.get("reason")?.as_str()?;
        return (record.get("verdict")?.as_str()? == "deny").then(|| Thing::text(format!("deny {reason}")));
    };
    let verdict = decision.get("verdict")?.as_str()?;
    let why = ["determining", "policies", "current", "unpermitted", "errors"];
    let why: Vec<&Value> = why.iter().filter_map(|part| decision.get(part)).collect();
    let bits = serde_json::to_vec(&(verdict, &why)).ok()?;
    let rules = decision.get("determining").and_then(Value::as_array).into_iter().flatten();
    let rules: Vec<&str> = rules.filter_map(|rule| rule.get("rule").or(rule.get("id"))?.as_str()).collect();
    let text = if rules.is_empty() { verdict.to_owned() } else { format!("{verdict} by {}", rules.join(", ")) };
    Some(Thing::of(&bits, text))
}

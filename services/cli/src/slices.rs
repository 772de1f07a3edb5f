//! What a run is granted of budgets, as a person reads it.

use mar_proto::session::{BudgetScope, BudgetUnit, SliceGranted};
use serde_json::{Map, Value, json};

use crate::out::Ink;

/// The event of a slice: only what a person would act on, the thresholds that it reached.
pub fn granted(granted: &SliceGranted, ink: Ink) -> Option<String> {
    let reached: Vec<_> = granted
        .crossed
        .iter()
        .map(|threshold| {
            let unit = if threshold.unit() == BudgetUnit::Runs { "runs" } else { "cost" };
            format!("{}% of its {unit}", threshold.percent)
        })
        .collect();
    let last = reached.last()?;
    Some(format!("{} the budget of the {} has reached {last}", ink.warn("budget:"), whose(granted.scope())))
}

/// What the event has beside that of all events.
pub fn fields(granted: &SliceGranted) -> Map<String, Value> {
    let crossed: Vec<_> = granted
        .crossed
        .iter()
        .map(|threshold| {
            let unit = threshold.unit().as_str_name().trim_start_matches("BUDGET_UNIT_");
            json!({ "unit": unit, "percent": threshold.percent })
        })
        .collect();
    let mut fields = Map::new();
    let scope = granted.scope().as_str_name().trim_start_matches("BUDGET_SCOPE_");
    fields.insert("scope".into(), json!(scope));
    fields.insert("slice".into(), json!(granted.slice));
    fields.insert("day".into(), json!(granted.day));
    fields.insert("cost_nano_usd".into(), json!(granted.cost_nano_usd));
    fields.insert("runs".into(), json!(granted.runs));
    fields.insert("crossed".into(), json!(crossed));
    fields
}

fn whose(scope: BudgetScope) -> &'static str {
    match scope {
        BudgetScope::Session => "session",
        BudgetScope::Tenant | BudgetScope::Unspecified => "tenant",
    }
}

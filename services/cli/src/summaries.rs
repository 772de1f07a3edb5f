//! What is left out of prompts, for people and for programs.

use mar_proto::session::{GenerationStarted, SummaryCommitted};
use serde_json::{Map, Value, json};

use crate::out::{Ink, one_line};
use crate::report::usage;
use crate::table::{bytes, count, usd};

/// A generation that is about to begin, where its prompt had to be made shorter.
pub fn started(started: &GenerationStarted, ink: Ink) -> Option<String> {
    if started.history {
        return Some(format!("step {:<5} sums up earlier runs of the session: they do not fit", started.step));
    }
    if !started.role.is_empty() {
        return Some(format!("step {:<5} sums up the steps before it: they do not fit any more", started.step));
    }
    let results = match started.elided.len() {
        0 => None,
        1 => Some("a large result of earlier steps".to_owned()),
        many => Some(format!("{many} large results of earlier steps")),
    };
    let reason = &started.history_left_out_reason;
    let messages = match started.history_left_out {
        0 => None,
        1 => Some(format!("a message of earlier runs ({reason})")),
        many => Some(format!("{many} messages of earlier runs ({reason})")),
    };
    let left_out: Vec<String> = results.into_iter().chain(messages).collect();
    let told = || format!("step {:<5} {}", started.step, ink.dim(&format!("leaves out {}", left_out.join(" and "))));
    (!left_out.is_empty()).then(told)
}

/// A summary of earlier steps.
pub fn committed(summary: &SummaryCommitted, ink: Ink) -> String {
    let spent = summary.usage.unwrap_or_default();
    let (input, output) = (super::progress::describe::input(&spent), super::progress::describe::output(&spent));
    let spent = format!("{} in, {} out, {}", count(input), count(output), usd(spent.cost_nano_usd));
    let model = summary.model.strip_prefix("models/").unwrap_or(&summary.model);
    let of = if summary.history { " of earlier runs" } else { "" };
    let what = format!("sums up {}{of} in {}", bytes(summary.replaced_bytes), bytes(summary.summary_bytes));
    format!("step {:<5} {} {what}  {}", summary.step, ink.name(&one_line(model, 60)), ink.dim(&spent))
}

/// A summary as JSON.
pub fn fields(summary: &SummaryCommitted) -> Map<String, Value> {
    let fields = json!({
        "step": summary.step,
        "model": summary.model,
        "selection": summary.selection,
        "usage": summary.usage.as_ref().map(usage),
        "replaces": summary.replaces,
        "replaced_bytes": summary.replaced_bytes,
        "summary_bytes": summary.summary_bytes,
        "history": summary.history,
        "history_through": summary.history_through,
        "failed_attempts": summary.failed_attempts,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

//! A run on its way: live on a terminal, in plain lines in a pipe, or not at all.

use std::collections::VecDeque;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use mar_proto::session::event_leaf::Body;
use mar_proto::session::{AttemptStarted, Delta, DeltaKind, Event, WaitReason};

use crate::out::{Out, clean, one_line};
use crate::table::{count, usd};
use crate::waiting;

mod children;
pub mod describe;

pub use describe::{Warned, describe};

const TICK: Duration = Duration::from_millis(100);
/// How much of a streamed answer stays in sight.
const TAIL: usize = 60;

/// Where progress is shown.
#[derive(Debug)]
pub enum Progress {
    /// A line that is redrawn, with what is done above it.
    Live(Box<Live>),
    /// A line for each thing that is done.
    Lines(Out, Warned),
    /// Nowhere.
    Silent,
}

impl Progress {
    /// What fits the streams.
    pub fn new(out: Out, as_json: bool) -> Self {
        if as_json {
            Self::Silent
        } else if out.live {
            Self::Live(Box::new(Live::new(out)))
        } else {
            Self::Lines(out, Warned::default())
        }
    }

    /// Whether pieces of uncommitted turns are of use.
    pub fn wants_deltas(&self) -> bool {
        matches!(self, Self::Live(_))
    }

    /// Something that is no event.
    pub fn note(&self, text: &str) {
        match self {
            Self::Live(live) => live.bar.println(clean(text)),
            Self::Lines(out, _) => out.note(clean(text)),
            Self::Silent => {}
        }
    }

    /// A committed event.
    pub fn event(&mut self, event: &Event) {
        match self {
            Self::Live(live) => live.event(event),
            Self::Lines(out, warned) => {
                if let Some(text) = describe(event, warned, out.remark) {
                    out.note(text);
                }
            }
            Self::Silent => {}
        }
    }

    /// A generation's attempt is open.
    pub fn attempt(&mut self, attempt: &AttemptStarted) {
        if let Self::Live(live) = self {
            live.attempt(attempt);
        }
    }

    /// A piece of a turn.
    pub fn delta(&mut self, delta: &Delta) {
        if let Self::Live(live) = self {
            live.delta(delta);
        }
    }

    /// Takes the live line away.
    pub fn finish(&self) {
        if let Self::Live(live) = self {
            live.bar.finish_and_clear();
        }
    }
}

/// The state of the live line.
#[derive(Debug)]
pub struct Live {
    out: Out,
    warned: Warned,
    bar: ProgressBar,
    step: i64,
    doing: String,
    /// Calls in flight, by id.
    tools: VecDeque<(String, String)>,
    tail: String,
    newest: (i64, i64),
    tokens: i64,
    cost: i64,
}

impl Live {
    fn new(out: Out) -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4}  {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        let mut live = Self {
            out,
            warned: Warned::default(),
            bar,
            step: 0,
            doing: "waiting for the runtime".to_owned(),
            tools: VecDeque::new(),
            tail: String::new(),
            newest: (0, 0),
            tokens: 0,
            cost: 0,
        };
        live.draw();
        live
    }

    fn draw(&mut self) {
        let ink = self.out.remark;
        let mut text = String::new();
        if self.step > 0 {
            text.push_str(&ink.bold(&format!("step {}  ", self.step)));
        }
        let doing = self.tools.front().map_or(&self.doing, |(_, doing)| doing);
        text.push_str(doing);
        if self.tokens > 0 {
            let spent = format!("  {} tokens  {}", count(self.tokens), usd(self.cost));
            text.push_str(&ink.dim(&spent));
        }
        if !self.tail.is_empty() {
            let skipped = self.tail.chars().count().saturating_sub(TAIL);
            let tail: String = self.tail.chars().skip(skipped).collect();
            text.push_str(&format!("  {}", one_line(&tail, TAIL)));
        }
        self.bar.set_message(text);
    }

    fn event(&mut self, event: &Event) {
        if let Some(text) = describe(event, &mut self.warned, self.out.remark) {
            self.bar.println(text);
        }
        match event.body.as_ref().and_then(|leaf| leaf.body.as_ref()) {
            Some(Body::RunAdmitted(_)) => self.doing = "synthesising an agent".into(),
            Some(Body::AgentSealed(_)) => self.doing = "sealed".into(),
            Some(Body::GenerationStarted(started)) => {
                self.step = started.step;
                self.doing = if started.role.is_empty() { "asking the model" } else { "summing up" }.into();
            }
            Some(Body::SummaryCommitted(summary)) => {
                self.doing = "summed up".into();
                let usage = summary.usage.unwrap_or_default();
                self.tokens += describe::input(&usage) + describe::output(&usage);
                self.cost += usage.cost_nano_usd;
            }
            Some(Body::TurnCommitted(turn)) => {
                self.tail.clear();
                self.doing = "committed".into();
                let usage = turn.usage.unwrap_or_default();
                self.tokens += describe::input(&usage) + describe::output(&usage);
                self.cost += usage.cost_nano_usd;
            }
            Some(Body::ToolIntent(intent)) => {
                self.returned(&intent.call_id);
                let doing = format!("calling {}", describe::tool_name(&intent.tool));
                self.tools.push_back((intent.call_id.clone(), doing));
            }
            Some(Body::ToolReturned(returned)) => self.returned(&returned.call_id),
            Some(Body::ApprovalRequested(asked)) => {
                self.returned(&asked.call_id);
                self.doing = waiting::doing(asked);
            }
            Some(Body::CallHandedOver(handed)) => self.returned(&handed.call_id),
            Some(Body::DelegationIntent(intent)) => {
                self.doing = format!("waiting for {} sub-agents", intent.children.len());
            }
            Some(Body::RunWaiting(parked)) if parked.reason() == WaitReason::Approval => {}
            Some(Body::RunWaiting(parked)) => self.doing = waiting::doing_nothing(parked),
            Some(Body::RunResumed(_) | Body::CommitDelayed(_)) => self.doing = "going on".into(),
            Some(Body::PauseRequested(_)) => self.doing = "pausing".into(),
            Some(Body::StopRequested(_)) => self.doing = "stopping".into(),
            _ => {}
        }
        self.draw();
    }

    fn returned(&mut self, call: &str) {
        self.tools.retain(|(id, _)| id != call);
    }

    fn attempt(&mut self, attempt: &AttemptStarted) {
        self.step = self.step.max(attempt.step);
        self.newest = (attempt.epoch, attempt.attempt);
        self.tail.clear();
        let model = attempt.model.strip_prefix("models/").unwrap_or(&attempt.model);
        self.doing = if model.is_empty() { "asking the model".into() } else { format!("asking {}", clean(model)) };
        self.draw();
    }

    fn delta(&mut self, delta: &Delta) {
        if (delta.epoch, delta.attempt) < self.newest {
            return;
        }
        if delta.kind() == DeltaKind::Reasoning {
            self.doing = "thinking".into();
        } else {
            self.tail.push_str(&delta.text);
            let skipped = self.tail.chars().count().saturating_sub(2 * TAIL);
            if skipped > 0 {
                self.tail = self.tail.chars().skip(skipped).collect();
            }
        }
        self.draw();
    }
}

//! Forks: what they share with the run that they were forked from, and the results that they are given.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use mar_descriptor::{Hash, domain};
use mar_proto::session::{
    Event, EventContent, EventShared, ForkOrigin, Run, ToolIntent, ToolOutcome, ToolReturned, event_leaf::Body,
    event_shared,
};
use mar_proto::types::{ToolCall, part::Content};

use super::{Replay, Scars, check_from, hash};

/// What makes two calls the same: the tool, and the arguments whatever their order.
type CallKey = (String, String);

/// Checks a fork that has ended, by its log and that of the run that it was forked from, both with their payloads: it begins with
/// what both share, and calls that are recorded have the recorded results, without being made.
///
/// # Errors
/// What does not hold.
pub fn check_fork(run: &Run, events: &[Event], origin: &[Event]) -> anyhow::Result<Scars> {
    let Some(Body::RunAdmitted(admitted)) = events.first().and_then(body) else { anyhow::bail!("no admission") };
    let fork = admitted.fork.as_ref().context("the run is no fork")?;
    let last = usize::try_from(fork.through_seq).ok().and_then(|at| origin.get(at)).context("they share nothing")?;
    let scars = check_from(run, events, hash(&last.hash)?)?;
    let mut lineage = Lineage::of(fork, origin);
    for event in events {
        lineage.take(event).with_context(|| format!("event {} of {}", event.seq, run.name))?;
    }
    lineage.shares_all()?;
    Ok(scars)
}

fn body(event: &Event) -> Option<&Body> {
    event.body.as_ref()?.body.as_ref()
}

impl Replay {
    /// A fork begins with an event of its origin's, which counts and costs nothing.
    pub(super) fn share(&mut self, shared: &EventShared) -> anyhow::Result<()> {
        ensure!(self.is_fork && self.scars.generations == 0, "shared by a run that is no fork, or has begun");
        match &shared.body {
            Some(event_shared::Body::Turn(turn)) => {
                ensure!(turn.step == self.steps + 1, "step {} is shared after {}", turn.step, self.steps);
                self.steps = turn.step;
            }
            Some(event_shared::Body::Summary(summary)) => {
                ensure!(summary.step == self.steps + 1, "step {} is shared after {}", summary.step, self.steps);
                self.steps = summary.step;
            }
            Some(event_shared::Body::Result(_)) => self.shared_calls += i64::from(shared.counted),
            Some(event_shared::Body::Rejection(_)) => {}
            None => anyhow::bail!("nothing is shared"),
        }
        Ok(())
    }
}

struct Lineage<'a> {
    fork: &'a ForkOrigin,
    origin: &'a [Event],
    /// Places of results in the origin's log by call, in their order.
    recorded: BTreeMap<CallKey, Vec<i64>>,
    /// How many of them the fork was given, shared ones included.
    given: BTreeMap<CallKey, usize>,
    /// The fork's calls by place.
    calls: BTreeMap<String, CallKey>,
    /// What is shared, and what ought to be.
    shared: Vec<i64>,
    expected: Vec<i64>,
    /// Whether the fork's agent may call a tool of its own accord.
    harmless: BTreeMap<String, bool>,
    promised: BTreeMap<String, i64>,
}

impl<'a> Lineage<'a> {
    fn of(fork: &'a ForkOrigin, origin: &'a [Event]) -> Self {
        let mut recorded: BTreeMap<CallKey, Vec<i64>> = BTreeMap::new();
        let (mut calls, mut begun) = (BTreeMap::new(), Vec::new());
        let (mut expected, mut open, mut owed) = (Vec::new(), Vec::new(), 0);
        // Another agent shares nothing after the first turn that asks for tools.
        let mut shut = false;
        for event in origin {
            if let Some(Body::ToolIntent(intent)) = body(event) {
                begun.push(place(&intent.call_id).to_owned());
            }
            let Some(part) = body(event).and_then(part) else { continue };
            match &part {
                event_shared::Body::Turn(_) => {
                    let asked = asked(event.content.as_ref());
                    (owed, calls) = (asked.len(), asked);
                    expected.extend(open.drain(..).take(1));
                }
                event_shared::Body::Result(back) => {
                    let shared = matches!(body(event), Some(Body::EventShared(shared)) if shared.counted);
                    let made = shared || begun.iter().any(|begun| begun == place(&back.call_id));
                    if let Some(key) = calls.get(place(&back.call_id)).filter(|_| made)
                        && back.outcome() != ToolOutcome::NotSent
                    {
                        recorded.entry(key.clone()).or_default().push(event.seq);
                    }
                    owed -= usize::from(event.seq <= fork.through_seq);
                }
                event_shared::Body::Rejection(_) | event_shared::Body::Summary(_) => {}
            }
            if event.seq <= fork.through_seq && !shut {
                shut = fork.own_task && matches!(part, event_shared::Body::Turn(_)) && owed > 0;
                open.push(event.seq);
                if owed == 0 {
                    expected.append(&mut open);
                }
            }
        }
        expected.extend(open.drain(..).take(1));
        Self {
            fork,
            origin,
            recorded,
            expected,
            given: BTreeMap::new(),
            calls: BTreeMap::new(),
            shared: Vec::new(),
            harmless: BTreeMap::new(),
            promised: BTreeMap::new(),
        }
    }

    fn there(&self, seq: i64) -> anyhow::Result<&'a Event> {
        usize::try_from(seq).ok().and_then(|at| self.origin.get(at)).context("the origin has no such event")
    }

    fn take(&mut self, event: &Event) -> anyhow::Result<()> {
        let content = event.content.clone().unwrap_or_default();
        match body(event).context("no body")? {
            Body::AgentSealed(_) => {
                let tools = content.agent.unwrap_or_default().tools;
                self.harmless = tools.into_iter().map(|tool| (tool.name, tool.read_only)).collect();
            }
            Body::TurnCommitted(_) => self.calls.extend(asked(Some(&content))),
            Body::EventShared(shared) => self.share(shared, &content)?,
            Body::ToolIntent(intent) => self.intend(intent, &content)?,
            Body::ToolReturned(back) => self.replay(back, &content)?,
            _ => {}
        }
        Ok(())
    }

    fn share(&mut self, shared: &EventShared, content: &EventContent) -> anyhow::Result<()> {
        ensure!(shared.seq <= self.fork.through_seq, "{} is not shared", shared.seq);
        let there = self.there(shared.seq)?;
        ensure!(body(there).and_then(part) == shared.body, "{} is shared otherwise than it was", shared.seq);
        let was = there.content.clone().unwrap_or_default();
        let told = |content: &EventContent| {
            let EventContent { turn, tool_result, problems, summary, .. } = content.clone();
            (turn, tool_result, problems, summary)
        };
        let same = told(&was) == told(content);
        ensure!(same, "the payload of {} is another", shared.seq);
        self.shared.push(shared.seq);
        self.calls.extend(asked(Some(content)));
        if let Some(event_shared::Body::Result(back)) = &shared.body
            && shared.counted
        {
            let key = self.calls.get(place(&back.call_id)).context("the result of no call")?.clone();
            *self.given.entry(key).or_default() += 1;
        }
        Ok(())
    }

    /// The k-th such call has the k-th result, further ones the last; what is not recorded is made only where it may be.
    fn intend(&mut self, intent: &ToolIntent, content: &EventContent) -> anyhow::Result<()> {
        if intent.attempt > 1 {
            let promised = self.promised.get(&intent.call_id).copied();
            ensure!(promised == intent.recorded_seq, "try {} has another result", intent.attempt);
            return Ok(());
        }
        let key = (intent.tool.clone(), canonical(&content.arguments_json));
        let given = self.given.entry(key.clone()).or_default();
        let places = self.recorded.get(&key);
        let expected = places.and_then(|places| places.get(*given).or(places.last())).copied();
        ensure!(
            intent.recorded_seq == expected,
            "{} is given {:?}, not {expected:?}",
            intent.call_id,
            intent.recorded_seq
        );
        *given += 1;
        match expected {
            Some(seq) => {
                self.promised.insert(intent.call_id.clone(), seq);
            }
            None => {
                let harmless = self.fork.allow_effects || self.harmless.get(&intent.tool) == Some(&true);
                ensure!(harmless, "{} of a fork that may have no effects", intent.tool);
            }
        }
        Ok(())
    }

    /// A replayed result is the recorded one but for the ids of the run's own.
    fn replay(&self, back: &ToolReturned, content: &EventContent) -> anyhow::Result<()> {
        let Some(seq) = back.recorded_seq else { return Ok(()) };
        ensure!(self.promised.get(&back.call_id) == Some(&seq), "{} was given another result", back.call_id);
        let there = self.there(seq)?;
        let Some(event_shared::Body::Result(was)) = body(there).and_then(part) else { anyhow::bail!("no result") };
        ensure!((was.outcome(), &was.reason) == (back.outcome(), &back.reason), "{back:?} was {was:?}");
        let own = |content: Option<&EventContent>| {
            let mut result = content.and_then(|content| content.tool_result.clone()).unwrap_or_default();
            (result.call_id, result.provider_call_id) = (String::new(), String::new());
            result
        };
        ensure!(own(Some(content)) == own(there.content.as_ref()), "the result of {} is another", back.call_id);
        Ok(())
    }

    fn shares_all(&self) -> anyhow::Result<()> {
        // One that ends before it has read its origin shares nothing.
        let any = !self.shared.is_empty() || !self.harmless.is_empty();
        ensure!(!any || self.shared == self.expected, "{:?} are shared, not {:?}", self.shared, self.expected);
        Ok(())
    }
}

/// What of an event a fork may share.
fn part(body: &Body) -> Option<event_shared::Body> {
    match body {
        Body::TurnCommitted(turn) => Some(event_shared::Body::Turn(turn.clone())),
        Body::ToolReturned(back) => Some(event_shared::Body::Result(back.clone())),
        Body::AnswerRejected(rejected) => Some(event_shared::Body::Rejection(*rejected)),
        Body::SummaryCommitted(summary) => Some(event_shared::Body::Summary(summary.clone())),
        Body::EventShared(shared) => shared.body.clone(),
        _ => None,
    }
}

/// The calls that a turn asks for, by place.
fn asked(content: Option<&EventContent>) -> BTreeMap<String, CallKey> {
    let parts = content.and_then(|content| content.turn.as_ref()).map_or(&[][..], |turn| &turn.parts);
    let calls = parts.iter().filter_map(|part| match &part.content {
        Some(Content::ToolCall(call)) => Some((place(&call.call_id).to_owned(), key(call))),
        _ => None,
    });
    calls.collect()
}

fn key(call: &ToolCall) -> CallKey {
    (call.tool.clone(), canonical(&call.arguments_json))
}

/// `{step}/{index}`, which a call has in every fork.
fn place(call_id: &str) -> &str {
    call_id.split_once('/').map_or(call_id, |(_, place)| place)
}

fn canonical(arguments_json: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(arguments_json).ok();
    let hash = value.and_then(|value| Hash::of_foreign(domain::TOOL_ARGUMENTS, &value).ok());
    hash.map_or_else(|| arguments_json.to_owned(), |hash| hash.to_string())
}

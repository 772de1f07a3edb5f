//! What must hold of every run, however often its process died.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use mar_descriptor::chain::{Head, Link, verify};
use mar_descriptor::{Commitment, Hash, Outcome, RunSeal};
use mar_proto::session::{
    CommitDelayed, Event, GenerationStarted, Reservation, Run, RunState, ToolIntent, ToolOutcome, event_leaf::Body,
};
use mar_proto::tool::ProbeAnswer;
use mar_proto::types::Usage;

use crate::caller::names;

use family::Family;
pub use family::{check_family, check_family_of, children};
pub use leaf::shown;
pub use lineage::check_fork;

mod family;
mod leaf;
mod lineage;

/// What deaths left behind in a run's log.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Scars {
    /// Takeovers.
    pub claims: usize,
    /// Generations that died with their process.
    pub lost: usize,
    /// Intents that were repeated with their key.
    pub repeated: usize,
    /// Calls of which nobody knows what they did.
    pub unknown: usize,
    /// Times that the counters were rebuilt.
    pub rebuilt: usize,
    /// Takeovers of runs that nobody had executed for a while.
    pub unattended: usize,
    /// Times that a commit waited for the store.
    pub delayed: usize,
    /// Keys of intents by tool, with the number of times that each was issued.
    pub keys: BTreeMap<(String, String), usize>,
    /// Keys of intents whose result a fork is given: no tool ever sees them.
    pub recorded: BTreeSet<String>,
    /// Calls that a fork was not allowed to make.
    pub refused: usize,
    /// What came of each key in the end.
    pub outcomes: BTreeMap<String, ToolOutcome>,
    /// Times that earlier steps were summed up.
    pub summaries: usize,
    /// Generations that were reserved.
    pub generations: usize,
    /// Child runs that were started.
    pub children: usize,
    /// Times that a child run drew on its parent's pool.
    pub refills: usize,
    /// Slices of budgets that were granted.
    pub slices: usize,
}

impl std::ops::AddAssign<&Self> for Scars {
    fn add_assign(&mut self, other: &Self) {
        self.claims += other.claims;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.unknown += other.unknown;
        self.rebuilt += other.rebuilt;
        self.unattended += other.unattended;
        self.delayed += other.delayed;
        self.summaries += other.summaries;
        self.generations += other.generations;
        self.children += other.children;
        self.refills += other.refills;
        self.slices += other.slices;
        self.refused += other.refused;
        self.keys.extend(other.keys.clone());
        self.recorded.extend(other.recorded.clone());
        self.outcomes.extend(other.outcomes.clone());
    }
}

/// Checks a root run that has ended against its log, which has its leaves.
pub fn check(run: &Run, events: &[Event]) -> anyhow::Result<Scars> {
    check_from(run, events, Hash::ZERO)
}

/// Checks a run that has ended, whose chain begins with this hash: that of the intent of its parent where it has one.
pub fn check_from(run: &Run, events: &[Event], genesis: Hash) -> anyhow::Result<Scars> {
    let judged = chain_holds(run, events, genesis).and_then(|()| {
        let replay = replay(events)?;
        totals_hold(run, &replay)?;
        Ok(replay.scars)
    });
    judged.with_context(|| told(run, events))
}

/// A run and what each of its events says, cut short.
fn told(run: &Run, events: &[Event]) -> String {
    let mut text = format!("{} {:?}: {:?}", run.name, run.state(), names(events));
    for leaf in events.iter().filter_map(|event| event.body.as_ref()) {
        let body: String = format!("{:?}", leaf.body).chars().take(200).collect();
        text.push_str(&format!("\n  {:>3} in epoch {}: {body}", leaf.seq, leaf.epoch));
    }
    text
}

/// Recomputes the chain from the stored bytes, and the seal from its end.
fn chain_holds(run: &Run, events: &[Event], genesis: Hash) -> anyhow::Result<()> {
    let mut links = Vec::new();
    let mut prev = genesis;
    for event in events {
        ensure!(event.prev_hash == prev.as_bytes()[..], "event {} follows another hash", event.seq);
        let leaf = shown(event)?;
        ensure!(Some(&leaf) == event.body.as_ref(), "event {} is shown other than it is stored", event.seq);
        ensure!(leaf.seq == event.seq && run.name.ends_with(&leaf.run), "leaf {} of {}", leaf.seq, leaf.run);
        prev = hash(&event.hash)?;
        links.push(Link { seq: event.seq, leaf: &event.leaf, hash: prev });
    }
    let head = verify(Head::genesis(genesis), links)?;
    let sealed = run.seal.as_ref().context("no seal")?;
    ensure!(sealed.head == head.hash.as_bytes()[..] && sealed.head_seq == head.seq, "the seal has another head");
    let seal = RunSeal {
        descriptor_hash: sealed.descriptor_hash.parse().ok(),
        input_commitment: commitment(&sealed.input_commitment)?,
        session_commitment: commitment(&sealed.session_commitment)?,
        outcome: match run.state() {
            RunState::Succeeded => Outcome::Succeeded,
            RunState::Cancelled => Outcome::Cancelled,
            RunState::Halted => Outcome::Halted,
            RunState::Failed => Outcome::Failed,
            RunState::Denied => Outcome::Denied,
            other => anyhow::bail!("the run is {other:?}: {:?}", run.failure),
        },
        head,
    };
    ensure!(sealed.hash == seal.hash()?.to_string(), "the seal's hash is another");
    ensure!(sealed.signature.is_some(), "the seal is not signed");
    ensure!(run.next_seq == head.seq + 1, "next_seq is {}", run.next_seq);
    Ok(())
}

fn hash(bytes: &[u8]) -> anyhow::Result<Hash> {
    Ok(Hash::from_bytes(bytes.try_into()?))
}

fn commitment(bytes: &[u8]) -> anyhow::Result<Commitment> {
    Ok(Commitment::from_bytes(bytes.try_into()?))
}

#[derive(Debug, Default)]
struct Replay {
    scars: Scars,
    epoch: i64,
    limits: Option<mar_proto::types::HaltingPolicy>,
    open: Option<GenerationStarted>,
    /// The last generation that yielded nothing and is to be tried again.
    failed: Option<(i64, i64)>,
    steps: i64,
    calls: BTreeMap<String, (ToolIntent, bool)>,
    /// What was in flight at the last takeover and is not yet resolved.
    doubtful_generation: bool,
    doubtful_calls: BTreeMap<String, ToolIntent>,
    /// Calls that somebody holds.
    held: BTreeSet<String>,
    /// What the probe said of the last attempt of a call.
    probes: BTreeMap<String, ProbeAnswer>,
    /// Calls that child runs were started for.
    families: BTreeMap<String, Family>,
    /// What was drawn on the parent's pool.
    drawn: Reservation,
    used: Usage,
    /// Until when time is known to be lost to a store that was away.
    delayed_until: Option<(i64, i32)>,
    stopping: bool,
    ended: bool,
    is_fork: bool,
    /// Calls that a fork begins with.
    shared_calls: i64,
}

fn replay(events: &[Event]) -> anyhow::Result<Replay> {
    let mut replay = Replay { epoch: 1, ..Replay::default() };
    for event in events {
        let leaf = event.body.as_ref().context("no leaf")?;
        let body = leaf.body.as_ref().context("no body")?;
        ensure!(!replay.ended, "event {} after the end", event.seq);
        ensure!((event.seq == 0) == matches!(body, Body::RunAdmitted(_)), "event {} is {body:?}", event.seq);
        replay.take(body).with_context(|| format!("event {}", event.seq))?;
        ensure!(leaf.epoch == replay.epoch, "event {} has epoch {}, not {}", event.seq, leaf.epoch, replay.epoch);
    }
    ensure!(replay.ended, "the log has no end");
    ensure!(replay.held.is_empty(), "somebody still holds {:?}", replay.held);
    ensure!(replay.open.is_none() && replay.calls.values().all(|(_, open)| !open), "something is still open");
    Ok(replay)
}

impl Replay {
    fn take(&mut self, body: &Body) -> anyhow::Result<()> {
        match body {
            Body::RunAdmitted(admitted) => (self.limits, self.is_fork) = (admitted.limits, admitted.fork.is_some()),
            Body::RunClaimed(claimed) => {
                self.claim(claimed.epoch)?;
                self.scars.unattended += usize::from(claimed.unattended_since.is_some());
            }
            Body::GenerationStarted(started) => self.start(started)?,
            Body::TurnCommitted(turn) => {
                let open = self.close(turn.step, turn.attempt)?;
                ensure!(!self.doubtful_generation, "a turn of a dead process: {open:?}");
                ensure!(open.role.is_empty(), "a turn where a summary is due: {open:?}");
                self.failed = None;
                self.add(turn.usage.unwrap_or_default());
            }
            Body::SummaryCommitted(summary) => {
                let open = self.close(summary.step, summary.attempt)?;
                ensure!(!self.doubtful_generation, "a summary of a dead process: {open:?}");
                ensure!(open.role == "summarise" && open.replaces == summary.replaces, "{summary:?} after {open:?}");
                self.failed = None;
                self.scars.summaries += 1;
                self.add(summary.usage.unwrap_or_default());
            }
            Body::GenerationFailed(failed) => {
                let open = self.close(failed.step, failed.attempt)?;
                let usage = failed.usage.unwrap_or_default();
                if std::mem::take(&mut self.doubtful_generation) {
                    ensure!(failed.reason == "LOST", "lost, but for {}", failed.reason);
                    let full = open.reservation.unwrap_or_default();
                    ensure!(amounts(&usage) == reserved(&full), "lost at {usage:?}, reserved were {full:?}");
                    self.scars.lost += 1;
                }
                self.failed = failed.retried.then_some((failed.step, failed.attempt));
                self.add(usage);
            }
            Body::ToolIntent(intent) => self.intend(intent)?,
            Body::ToolReturned(returned) => {
                // The model wrote the name of no tool, or wants what its fork may not do: there was nothing to intend.
                let refused = self.is_fork && returned.reason == "EFFECTS_NOT_ALLOWED";
                if (refused || returned.reason == "TOOL_NOT_FOUND") && !self.calls.contains_key(&returned.call_id) {
                    self.scars.refused += usize::from(refused);
                    return Ok(());
                }
                let held = self.held.remove(&returned.call_id);
                self.abandon(&returned.call_id);
                let (intent, open) = self.calls.get_mut(&returned.call_id).context("returned without intent")?;
                ensure!(std::mem::take(open) || held, "{} returned twice", returned.call_id);
                let unknown = returned.outcome() == ToolOutcome::Unknown;
                if self.doubtful_calls.remove(&returned.call_id).is_some() && !decided_only(intent) {
                    let probed = self.probes.get(&returned.call_id);
                    let known = probed == Some(&ProbeAnswer::Happened)
                        && matches!(returned.outcome(), ToolOutcome::Ok | ToolOutcome::Error);
                    ensure!(unknown || known, "a call of a dead process is {:?}", returned.outcome());
                    ensure!(
                        known || !intent.idempotent || intent.attempt == 3 || self.stopping,
                        "an idempotent call was given up"
                    );
                }
                self.scars.unknown += usize::from(unknown);
                self.scars.outcomes.insert(intent.idempotency_key.clone(), returned.outcome());
            }
            Body::CountersRebuilt(_) => self.scars.rebuilt += 1,
            Body::CommitDelayed(delayed) => self.delay(delayed)?,
            Body::StopRequested(_) => self.stopping = true,
            Body::RunEnded(_) => self.ended = true,
            Body::AgentSealed(_) | Body::AnswerRejected(_) | Body::RunWaiting(_) | Body::RunResumed(_) => {}
            Body::PauseRequested(_) => {}
            Body::SliceGranted(_) => self.scars.slices += 1,
            Body::ApprovalRequested(asked) => self.hold(&asked.call_id)?,
            Body::CallHandedOver(handed) => self.hold(&handed.call_id)?,
            Body::ApprovalDecided(_) => {}
            Body::DelegationIntent(intent) => self.delegate(intent)?,
            Body::ChildEnded(ended) => self.end_child(ended)?,
            Body::AllotmentRefilled(refilled) => {
                self.drawn = family::sum([&self.drawn, &refilled.drawn.unwrap_or_default()]);
                self.scars.refills += 1;
            }
            Body::OriginRecalled(_) => ensure!(self.is_fork, "the run is no fork"),
            Body::EventShared(shared) => self.share(shared)?,
            Body::CallDoubted(doubted) => {
                let (intent, open) = self.calls.get(&doubted.call_id).context("doubted without intent")?;
                ensure!(*open && !self.stopping, "{doubted:?} of a call that is closed");
                ensure!(!intent.idempotent || intent.attempt >= 3, "doubted what may be repeated");
                self.probes.remove(&doubted.call_id);
            }
            Body::CallProbed(probed) => {
                ensure!(self.calls.get(&probed.call_id).is_some_and(|(_, open)| *open), "probed what is closed");
                self.probes.insert(probed.call_id.clone(), probed.answer());
            }
        }
        Ok(())
    }

    /// A call is in the hands of people or of the caller; it was not sent.
    fn hold(&mut self, call_id: &str) -> anyhow::Result<()> {
        let (_, open) = self.calls.get_mut(call_id).context("held without intent")?;
        ensure!(std::mem::take(open), "{call_id} is held after its result");
        self.held.insert(call_id.to_owned());
        Ok(())
    }

    /// Time is lost once, and only before the event that tells of it.
    fn delay(&mut self, delayed: &CommitDelayed) -> anyhow::Result<()> {
        let stamps = delayed.since.zip(delayed.until).context("a delay without its time")?;
        let (since, until) = ((stamps.0.seconds, stamps.0.nanos), (stamps.1.seconds, stamps.1.nanos));
        ensure!(since < until, "{delayed:?} is none");
        ensure!(self.delayed_until.is_none_or(|before| before <= since), "{delayed:?} was told of before");
        ensure!(delayed.failures > 0 && delayed.dependency == "session store", "{delayed:?} of nothing");
        self.delayed_until = Some(until);
        self.scars.delayed += 1;
        Ok(())
    }

    fn claim(&mut self, epoch: i64) -> anyhow::Result<()> {
        ensure!(epoch > self.epoch, "epoch {epoch} after {}", self.epoch);
        self.epoch = epoch;
        self.scars.claims += 1;
        self.doubtful_generation = self.open.is_some();
        let open = self.calls.iter().filter(|(_, (_, open))| *open);
        self.doubtful_calls = open.map(|(id, (intent, _))| (id.clone(), intent.clone())).collect();
        Ok(())
    }

    fn start(&mut self, started: &GenerationStarted) -> anyhow::Result<()> {
        ensure!(self.open.is_none(), "two generations are open");
        ensure!(!self.stopping, "a generation after the stop");
        ensure!(self.doubtful_calls.is_empty(), "calls are unresolved: {:?}", self.doubtful_calls.keys());
        let expected = self.failed.map_or((self.steps + 1, 1), |(step, attempt)| (step, attempt + 1));
        ensure!((started.step, started.attempt) == expected, "{started:?} where {expected:?} is due");
        self.steps = started.step;
        self.scars.generations += 1;
        self.open = Some(started.clone());
        Ok(())
    }

    fn close(&mut self, step: i64, attempt: i64) -> anyhow::Result<GenerationStarted> {
        let open = self.open.take().context("no generation is open")?;
        ensure!((open.step, open.attempt) == (step, attempt), "{open:?} closed by {step}/{attempt}");
        Ok(open)
    }

    fn intend(&mut self, intent: &ToolIntent) -> anyhow::Result<()> {
        ensure!(!self.stopping, "an intent after the stop");
        let before = self.calls.get(&intent.call_id);
        match before {
            None => ensure!(intent.attempt == 1, "first intent is try {}", intent.attempt),
            Some((before, open)) => {
                // A call that was held was not sent, or a human wants it issued once more.
                let absent = self.probes.remove(&intent.call_id) == Some(ProbeAnswer::DidNotHappen);
                if !self.held.remove(&intent.call_id) {
                    ensure!(*open, "{} is repeated after its result", intent.call_id);
                    let harmless = intent.idempotent && before.idempotent || absent || decided_only(intent);
                    ensure!(harmless, "{} is not idempotent and repeated", intent.call_id);
                }
                ensure!(intent.attempt == before.attempt + 1, "try {} after {}", intent.attempt, before.attempt);
                ensure!(intent.idempotency_key == before.idempotency_key, "{} has another key", intent.call_id);
                self.scars.repeated += 1;
            }
        }
        self.doubtful_calls.remove(&intent.call_id);
        if intent.recorded_seq.is_some() {
            self.scars.recorded.insert(intent.idempotency_key.clone());
        } else {
            *self.scars.keys.entry((intent.tool.clone(), intent.idempotency_key.clone())).or_default() += 1;
        }
        self.calls.insert(intent.call_id.clone(), (intent.clone(), true));
        Ok(())
    }

    fn add(&mut self, usage: Usage) {
        self.used.input_tokens += usage.input_tokens;
        self.used.output_tokens += usage.output_tokens;
        self.used.cost_nano_usd += usage.cost_nano_usd;
    }
}

/// Whether the gateway only decides on a call, which the caller or the runtime makes, or whose result is recorded: before it is
/// handed over nothing has happened.
fn decided_only(intent: &ToolIntent) -> bool {
    let elsewhere = ["tools/caller.", "tools/runtime."].iter().any(|upstream| intent.tool.starts_with(upstream));
    elsewhere || intent.recorded_seq.is_some()
}

/// Counted limits are kept, and the totals are what the log says.
fn totals_hold(run: &Run, replay: &Replay) -> anyhow::Result<()> {
    let totals = run.totals.as_ref().context("no totals")?;
    let limits = replay.limits.context("no limits")?;
    let taken = family::sum(replay.families.values().map(|family| &family.taken));
    let steps = replay.steps + taken.steps;
    let calls = i64::try_from(replay.calls.len())? + taken.tool_calls + replay.shared_calls;
    ensure!(totals.steps == steps, "{} steps, the log has {steps}", totals.steps);
    ensure!(totals.tool_calls == calls, "{} tool calls, the log has {calls}", totals.tool_calls);
    let within = |most: Option<i64>, drawn: i64, used: i64| most.is_some_and(|most| used <= most + drawn);
    ensure!(within(limits.max_steps, replay.drawn.steps, totals.steps), "too many steps: {totals:?}");
    ensure!(within(limits.max_tool_calls, replay.drawn.tool_calls, totals.tool_calls), "too many calls: {totals:?}");
    let used = totals.usage.unwrap_or_default();
    ensure!(amounts(&used) == amounts(&replay.used), "used {used:?}, the log has {:?}", replay.used);
    ensure!(amounts(&totals.reserved.unwrap_or_default()) == (0, 0, 0), "still reserved: {:?}", totals.reserved);
    Ok(())
}

fn amounts(usage: &Usage) -> (i64, i64, i64) {
    (usage.input_tokens, usage.output_tokens, usage.cost_nano_usd)
}

fn reserved(reservation: &Reservation) -> (i64, i64, i64) {
    (reservation.input_tokens, reservation.output_tokens, reservation.cost_nano_usd)
}

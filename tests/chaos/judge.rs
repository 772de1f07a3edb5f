//! What must hold of everything that happened in a storm.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, ensure};
use mar_proto::session::{Event, Run, RunState, ToolOutcome, event_leaf::Body};
use mar_proto::types::HaltReason;
use mar_tests::caller::{Caller, names};
use mar_tests::client::Client;
use mar_tests::oracle::{self, Scars};
use tonic::{Code, Status};

use crate::scene::{ONCE, SURE, journal};
use crate::story::Told;

/// Child runs that have to draw on one parent for its limits to be contended for.
const CONTENDERS: usize = 4;
/// Attempts of a step that may be lost with their replicas.
const ATTEMPTS: usize = 3;

/// A run that has ended: its followers saw each event once, in order, as it is stored; the chain holds and is sealed; no
/// counted limit was exceeded; every intent has its outcome.
///
/// The same holds of its child runs.
pub async fn run(client: Client, told: &Told) -> anyhow::Result<Judged> {
    let mut caller = Caller { client, gateway: String::new() };
    let mut scars = caller.judge(&told.seen).await?;
    let events = caller.client.events(&told.seen.name).await?;
    given_up_at_last(told.seen.ended.as_ref().context("no end")?, &events)?;
    let session = told.seen.name.split_once("/runs/").context("no session")?.0.to_owned();
    let mut children = Vec::new();
    for id in oracle::children(&events) {
        let name = format!("{session}/runs/{id}");
        // One that its parent was stopped before it admitted is not there.
        let child = match caller.client.get(&name).await {
            Err(error) if error.downcast_ref::<Status>().is_some_and(|status| status.code() == Code::NotFound) => {
                continue;
            }
            _ => caller.client.until(&name, |child| child.seal.is_some()).await?,
        };
        let events = caller.client.events(&name).await?;
        given_up_at_last(&child, &events)?;
        children.push((child, events));
    }
    scars += &oracle::check_family(&events, &children)?;
    let contended = children.iter().filter(|(_, events)| draws(events)).count() >= CONTENDERS;
    let bound = contended || told.seen.ended.iter().chain(children.iter().map(|(child, _)| child)).any(is_at_a_limit);
    let forked = told.fork.is_some();
    if let Some(fork) = &told.fork {
        let of_fork = caller.judge_fork(fork, &events).await?;
        given_up_at_last(fork.ended.as_ref().context("no end")?, &fork.events)?;
        scars += &of_fork;
    }
    let ended = children.into_iter().map(|(child, _)| child).chain(told.seen.ended.clone());
    let ended = ended.chain(told.fork.as_ref().and_then(|fork| fork.ended.clone()));
    let mut ended: BTreeMap<String, String> = ended.map(|run| (id_of(&run.name), how(&run))).collect();
    if told.uploaded {
        ended.insert(id_of(&session), "WHOLE".to_owned());
    }
    Ok(Judged { forked, scars, ended, bound, contended })
}

/// Whether a child run drew on what its parent has left.
fn draws(events: &[Event]) -> bool {
    let bodies = events.iter().filter_map(|event| event.body.as_ref()?.body.as_ref());
    bodies.into_iter().any(|body| matches!(body, Body::AllotmentRefilled(_)))
}

/// Whether a counted limit ended it.
fn is_at_a_limit(run: &Run) -> bool {
    let reason = run.halt_reason();
    matches!(reason, HaltReason::MaxSteps | HaltReason::MaxToolCalls)
}

/// A run that failed because its generations were lost has lost three of one step, each with another owner.
fn given_up_at_last(run: &Run, events: &[Event]) -> anyhow::Result<()> {
    if how(run) != "FAILED LOST" {
        return Ok(());
    }
    let leaves = || events.iter().filter_map(|event| event.body.as_ref());
    let lost = leaves().filter_map(|leaf| match &leaf.body {
        Some(Body::GenerationFailed(failed)) if failed.reason == "LOST" => Some((failed.step, leaf.epoch)),
        _ => None,
    });
    let lost: BTreeSet<(i64, i64)> = lost.collect();
    let last = lost.last().map(|(step, _)| *step);
    let thrice = lost.iter().filter(|(step, _)| Some(*step) == last).count();
    let seconds = |time: Option<prost_types::Timestamp>| {
        time.map_or(0.0, |time| time.seconds as f64 + f64::from(time.nanos) / 1e9)
    };
    let began = seconds(leaves().next().and_then(|leaf| leaf.time));
    let owned = leaves().filter_map(|leaf| match &leaf.body {
        Some(Body::RunClaimed(claimed)) => {
            let (at, since) = (seconds(leaf.time) - began, seconds(claimed.unattended_since) - began);
            Some(format!("{} at {at:.1} s, nobody's since {since:.1} s", claimed.epoch))
        }
        _ => None,
    });
    let owned: Vec<String> = owned.collect();
    crate::storm::say(&format!("{} is given up: lost {lost:?}, owned {owned:?}: {:?}", run.name, names(events)));
    ensure!(thrice >= ATTEMPTS, "{} is given up after {thrice} lost generations of step {last:?}", run.name);
    Ok(())
}

/// What came of a run and its child runs.
#[derive(Debug, Default)]
pub struct Judged {
    pub scars: Scars,
    /// How each ended, by id; by its session's, what came of an upload.
    pub ended: BTreeMap<String, String>,
    /// Whether a fork of the run was judged with it.
    pub forked: bool,
    /// Whether a counted limit ended the run or a child of it, or was contended for.
    pub bound: bool,
    /// Whether at least [`CONTENDERS`] child runs drew on what it had left.
    pub contended: bool,
}

fn id_of(name: &str) -> String {
    name.rsplit('/').next().unwrap_or_default().to_owned()
}

/// How a run ended, in words.
pub fn how(run: &Run) -> String {
    let state = run.state().as_str_name().trim_start_matches("RUN_STATE_").to_owned();
    let failure = run.failure.as_ref().map(|failure| failure.reason.clone());
    let why = match run.state() {
        RunState::Halted if run.halt_reason() != HaltReason::Unspecified => {
            Some(run.halt_reason().as_str_name().trim_start_matches("HALT_REASON_").to_owned())
        }
        RunState::Failed => failure,
        _ => None,
    };
    why.map_or(state.clone(), |why| format!("{state} {why}"))
}

/// What the tools remember, against all logs together.
pub fn effects(folder: &Path, scars: &Scars) -> anyhow::Result<Effects> {
    let mut sum = Effects::default();
    for (upstream, tool) in [(SURE, "tools/sure.apply"), (ONCE, "tools/once.append")] {
        let journal = journal(folder, upstream)?;
        let intended: BTreeMap<&str, usize> = scars
            .keys
            .iter()
            .filter(|((name, _), _)| name == tool)
            .map(|((_, key), issued)| (key.as_str(), *issued))
            .collect();
        for (key, (calls, effects)) in &journal {
            let issued =
                *intended.get(key.as_str()).with_context(|| format!("{tool} was called without intent: {key}"))?;
            ensure!(*calls <= issued, "{tool} was called {calls} times with {key}, intended {issued}");
            ensure!(*effects <= 1, "{tool} had {effects} effects with {key}");
        }
        for key in intended.keys() {
            let (calls, effects) = journal.get(*key).copied().unwrap_or_default();
            let outcome = scars.outcomes.get(*key).copied().with_context(|| format!("{key} has no outcome"))?;
            match outcome {
                ToolOutcome::Ok => ensure!(effects == 1, "{tool} said OK and had {effects} effects with {key}"),
                // Doubt is listed; whether there was an effect is what nobody knows.
                ToolOutcome::Unknown => sum.doubts += 1,
                // Refused before it was sent.
                _ => ensure!(effects == 0, "{tool} is {outcome:?} and had {effects} effects with {key}"),
            }
            sum.calls += calls;
            sum.effects += effects;
        }
        sum.intents += intended.len();
    }
    Ok(sum)
}

/// Calls and effects, counted apart.
#[derive(Debug, Default, Clone, Copy)]
pub struct Effects {
    pub intents: usize,
    pub calls: usize,
    pub effects: usize,
    pub doubts: usize,
}

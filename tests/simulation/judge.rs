//! What must hold in a world that has run its course.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use anyhow::{Context as _, ensure};
use mar_proto::session::{Event, Run, RunAdmitted, ToolOutcome, event_leaf::Body};
use mar_session::log;
use mar_session::runs::{has_ended, stored_run};
use mar_session::store::{EventRow, RunRow};
use mar_tests::caller::names;
use mar_tests::oracle::{self, Scars};
use prost::bytes::Bytes;
use uuid::Uuid;

use crate::history::{self, Glances};
use crate::peers::{MAIL, ONCE, SURE};
use crate::story::{Kind, Story, THRIFT};
use crate::world::World;

/// What was found to hold.
#[derive(Debug, Default)]
pub struct Judged {
    /// What followed what in the logs.
    pub transitions: BTreeMap<(&'static str, &'static str), usize>,
    /// The heads of all chains: equal for equal histories.
    pub heads: Vec<Bytes>,
    pub scars: Scars,
    /// What runs saw of those before them.
    pub glances: Glances,
    /// Runs that were forked from another.
    pub forks: usize,
    /// Where the store went back in time: callers that were told, and runs that were stopped for it.
    pub bereft: usize,
    pub stopped: usize,
}

/// Every run that was told of has ended, its log is whole, its followers saw it, and the tools remember what it says.
pub fn world(world: &World, sessions: &[Vec<Story>]) -> anyhow::Result<Judged> {
    let mut judged = Judged::default();
    let mut known: BTreeSet<Uuid> = BTreeSet::new();
    for story in sessions.iter().flatten() {
        let what = || format!("{:?} {} {:?}", story.kind, story.seen.name, story.branch);
        let events = run(world, story).with_context(what)?;
        let ended = story.seen.ended.as_ref().context("no end")?;
        judged.scars += &checked(world, ended, &events).with_context(what)?;
        judged.forks += usize::from(story.branch.is_some());
        let children = children(world, &events).with_context(what)?;
        judged.scars += &oracle::check_family(&events, &children).with_context(what)?;
        known.insert(story.run);
        for (run, _) in &children {
            known.extend(run.name.rsplit('/').next().and_then(|id| id.parse::<Uuid>().ok()));
        }
        for events in std::iter::once(&events).chain(children.iter().map(|(_, events)| events)) {
            judged.note(events);
        }
    }
    for stories in sessions {
        judged.glances += history::session(world, stories)?;
    }
    effects(world, &judged.scars)?;
    budgets(world, sessions)?;
    // Nobody was told of these, so they may have ended or not; but none may be of a request that admitted another.
    let strangers: Vec<_> = world.truth.tables().runs.keys().filter(|run| !known.contains(run)).copied().collect();
    ensure!(strangers.is_empty(), "runs that nobody was told of: {strangers:?}");
    Ok(judged)
}

/// Of a world whose store went back in time: everything that is left ends, with a whole log; no follower was shown another
/// log than the one it had seen without being told; and what was called without an intent was intended by what is gone.
pub fn forgetful(world: &World, sessions: &[Vec<Story>]) -> anyhow::Result<Judged> {
    let mut judged = Judged::default();
    let stories = || sessions.iter().flatten();
    // Who had seen the end before asks no more.
    for story in stories().filter(|story| !(story.bereft || story.early && world.has_lost_of(story.run))) {
        run(world, story).with_context(|| format!("{:?} {}", story.kind, story.seen.name))?;
    }
    let roots: Vec<(Uuid, RunRow)> = world.truth.tables().runs.iter().map(|(id, row)| (*id, row.clone())).collect();
    for (id, row) in roots {
        let ended = stored_run(&row).map_err(|error| anyhow::anyhow!("{error}"))?;
        ensure!(has_ended(row.state), "{} is {:?} when all is over", ended.name, ended.state());
        let events = stored(world, id)?;
        let child = |event: &Event| {
            let body = event.body.as_ref().and_then(|leaf| leaf.body.as_ref());
            matches!(body, Some(Body::RunAdmitted(admitted)) if admitted.parent.is_some())
        };
        if events.first().is_some_and(child) {
            continue;
        }
        ensure!(names(&events).last() == Some(&"RunEnded"), "{} is sealed over an end that is not there", ended.name);
        judged.scars += &checked(world, &ended, &events)?;
        let children = children(world, &events)?;
        let whole = |run: &Run| id_of(run).is_some_and(|id| !world.has_lost_of(id));
        judged.scars += &oracle::check_family_of(&events, &children, whole)?;
        for events in std::iter::once(&events).chain(children.iter().map(|(_, events)| events)) {
            judged.note(events);
        }
        let reason = ended.failure.as_ref().map(|failure| failure.reason.as_str()).unwrap_or_default();
        judged.stopped += usize::from(reason == "LOG_TAIL_LOST");
    }
    judged.bereft = stories().filter(|story| story.bereft).count();
    effects(world, &judged.scars)?;
    Ok(judged)
}

/// A root run by its log and, of a fork, by that of its origin.
fn checked(world: &World, run: &Run, events: &[Event]) -> anyhow::Result<Scars> {
    let first = events.first().and_then(|first| first.body.as_ref()?.body.as_ref());
    match first {
        Some(Body::RunAdmitted(RunAdmitted { fork: Some(fork), .. })) => {
            oracle::check_fork(run, events, &stored(world, fork.run.parse()?)?)
        }
        _ => oracle::check(run, events),
    }
}

pub fn stored(world: &World, run: Uuid) -> anyhow::Result<Vec<Event>> {
    let tables = world.truth.tables();
    let rows = tables.events.get(&run).context("the run is not stored")?;
    let session = tables.runs.get(&run).context("the run has no row")?.session;
    let present = |row| log::present(session, run, row, true);
    Ok(rows.iter().map(present).collect::<Result<Vec<Event>, _>>()?)
}

/// What calls the lost events had intended: tool and key, and how often.
fn intended_by_the_lost(world: &World) -> BTreeMap<(String, String), usize> {
    let lost = world.lost.lock().unwrap_or_else(PoisonError::into_inner);
    let bodies = lost.iter().filter_map(|(run, row)| log::decode(*run, row).ok()).map(|(_, event)| event.body);
    bodies.fold(BTreeMap::new(), |mut calls, body| {
        if let Body::ToolIntent(intent) = body {
            *calls.entry((intent.tool, intent.idempotency_key)).or_default() += 1;
        }
        calls
    })
}

impl Judged {
    fn note(&mut self, events: &[Event]) {
        for pair in names(events).windows(2) {
            *self.transitions.entry((pair[0], pair[1])).or_default() += 1;
        }
        self.heads.extend(events.last().map(|last| last.hash.clone()));
    }
}

/// The child runs that a log starts, with their logs; all have ended.
fn children(world: &World, events: &[Event]) -> anyhow::Result<Vec<(Run, Vec<Event>)>> {
    let tables = world.truth.tables();
    let mut children = Vec::new();
    for id in oracle::children(events) {
        let id: Uuid = id.parse()?;
        let (Some(row), Some(rows)) = (tables.runs.get(&id), tables.events.get(&id)) else { continue };
        let run = stored_run(row).map_err(|error| anyhow::anyhow!("{error}"))?;
        ensure!(has_ended(row.state), "a child is {:?} when all is over", run.state());
        let present = |event| log::present(row.session, id, event, true);
        let events = rows.iter().map(present).collect::<Result<Vec<Event>, _>>()?;
        children.push((run, events));
    }
    Ok(children)
}

fn id_of(run: &Run) -> Option<Uuid> {
    run.name.rsplit('/').next()?.parse().ok()
}

fn is_claim(row: &EventRow) -> bool {
    // Whose it is makes no difference here.
    log::decode(Uuid::nil(), row).is_ok_and(|(_, event)| matches!(event.body, Body::RunClaimed(_)))
}

/// No budget has given more than it has, and nothing of it is kept by runs that have ended.
fn budgets(world: &World, sessions: &[Vec<Story>]) -> anyhow::Result<()> {
    let tables = world.truth.tables();
    for ((budget, day), spent) in tables.purses.spent() {
        let limit = if day < 0 { THRIFT } else { world.poor.unwrap_or(0) };
        ensure!(spent <= limit, "{budget} of day {day} has given {spent} of {limit}");
    }
    // One that was granted to a replica that the run was taken from, after the run had ended, lapses with its window.
    for slice in tables.purses.open() {
        let taken_over = tables.events.get(&slice.run).is_some_and(|rows| rows.iter().any(is_claim));
        ensure!(taken_over, "a slice is kept by a run that has ended: {slice:?}");
    }
    let poor = sessions.iter().flatten().filter(|story| story.kind == Kind::Thrift);
    for story in poor {
        let used = story.seen.ended.as_ref().and_then(|run| run.totals?.usage).unwrap_or_default();
        ensure!(used.cost_nano_usd <= THRIFT, "{} has used {used:?} of {THRIFT}", story.seen.name);
    }
    Ok(())
}

fn run(world: &World, story: &Story) -> anyhow::Result<Vec<Event>> {
    let events = stored(world, story.run)?;
    let tables = world.truth.tables();
    let shown: Vec<Event> = events.iter().map(|event| Event { leaf: Bytes::new(), ..event.clone() }).collect();
    ensure!(shown == story.seen.events, "followers saw other events than are stored: {:?}", names(&shown));
    let row = tables.runs.get(&story.run).context("the run has no row")?;
    let ended = story.seen.ended.as_ref().context("no end")?;
    ensure!(i32::from(row.state) == ended.state, "the row says {}, followers saw {}", row.state, ended.state);
    let bound = matches!(story.kind, Kind::Chain | Kind::Pairs);
    let totals = ended.totals.unwrap_or_default();
    ensure!(!bound || totals.steps <= 9 && totals.tool_calls <= 9, "a limit that binds does not: {totals:?}");
    Ok(events)
}

/// What the tools remember, against all logs together.
fn effects(world: &World, scars: &Scars) -> anyhow::Result<()> {
    let journal = world.journal.entries();
    let intended: BTreeMap<(&str, &str), usize> =
        scars.keys.iter().map(|((tool, key), issued)| ((tool.as_str(), key.as_str()), *issued)).collect();
    let lost = intended_by_the_lost(world);
    for ((tool, key), (calls, effects)) in &journal {
        let gone = lost.get(&(tool.clone(), key.clone())).copied();
        let issued = intended.get(&(tool.as_str(), key.as_str())).copied();
        let issued = issued.or(gone.map(|_| 0)).with_context(|| format!("{tool} was called without intent: {key}"))?;
        let issued = issued + gone.unwrap_or(0);
        ensure!(*calls <= issued, "{tool} was called {calls} times with {key}, intended {issued}");
        // A run that nobody knew to have lost anything intends again what it had intended.
        ensure!(*effects <= 1 || gone.is_some(), "{tool} had {effects} effects with {key}");
    }
    for (tool, key) in intended.keys().filter(|(tool, _)| [SURE, ONCE, MAIL].contains(tool)) {
        let call = ((*tool).to_owned(), (*key).to_owned());
        let effects = journal.get(&call).map_or(0, |(_, effects)| *effects);
        if lost.contains_key(&call) {
            continue;
        }
        let outcome = scars.outcomes.get(*key).copied().with_context(|| format!("{key} has no outcome"))?;
        match outcome {
            ToolOutcome::Ok => ensure!(effects == 1, "{tool} said OK and had {effects} effects with {key}"),
            ToolOutcome::Unknown => {}
            _ => ensure!(effects == 0, "{tool} is {outcome:?} and had {effects} effects with {key}"),
        }
    }
    Ok(())
}

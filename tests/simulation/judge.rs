//! What must hold in a world that has run its course.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use mar_proto::session::{Event, ToolOutcome};
use mar_session::log;
use mar_tests::caller::names;
use mar_tests::oracle::{self, Scars};
use prost::bytes::Bytes;

use crate::peers::{MAIL, ONCE, SURE};
use crate::story::{Kind, Story};
use crate::world::World;

/// What was found to hold.
#[derive(Debug, Default)]
pub struct Judged {
    /// What followed what in the logs.
    pub transitions: BTreeMap<(&'static str, &'static str), usize>,
    /// The heads of all chains: equal for equal histories.
    pub heads: Vec<Bytes>,
    pub scars: Scars,
}

/// Every run that was told of has ended, its log is whole, its followers saw it, and the tools remember what it says.
pub fn world(world: &World, stories: &[Story]) -> anyhow::Result<Judged> {
    let mut judged = Judged::default();
    for story in stories {
        let events = run(world, story).with_context(|| format!("{:?} {}", story.kind, story.seen.name))?;
        let told = names(&events);
        for pair in told.windows(2) {
            *judged.transitions.entry((pair[0], pair[1])).or_default() += 1;
        }
        judged.heads.extend(events.last().map(|last| last.hash.clone()));
        let ended = story.seen.ended.as_ref().context("no end")?;
        judged.scars += &oracle::check(ended, &events)?;
    }
    effects(world, &judged.scars)?;
    // Nobody was told of these, so they may have ended or not; but none may be of a request that admitted another.
    let known: BTreeSet<_> = stories.iter().map(|story| story.run).collect();
    let strangers: Vec<_> = world.truth.tables().runs.keys().filter(|run| !known.contains(run)).copied().collect();
    ensure!(strangers.is_empty(), "runs that nobody was told of: {strangers:?}");
    Ok(judged)
}

fn run(world: &World, story: &Story) -> anyhow::Result<Vec<Event>> {
    let tables = world.truth.tables();
    let rows = tables.events.get(&story.run).context("the run is not stored")?;
    let present = |row| log::present(&story.seen.name, row, true);
    let events = rows.iter().map(present).collect::<Result<Vec<Event>, _>>()?;
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
    for ((tool, key), (calls, effects)) in &journal {
        let issued = intended.get(&(tool.as_str(), key.as_str())).copied();
        let issued = issued.with_context(|| format!("{tool} was called without intent: {key}"))?;
        ensure!(*calls <= issued, "{tool} was called {calls} times with {key}, intended {issued}");
        ensure!(*effects <= 1, "{tool} had {effects} effects with {key}");
    }
    for (tool, key) in intended.keys().filter(|(tool, _)| [SURE, ONCE, MAIL].contains(tool)) {
        let effects = journal.get(&((*tool).to_owned(), (*key).to_owned())).map_or(0, |(_, effects)| *effects);
        let outcome = scars.outcomes.get(*key).copied().with_context(|| format!("{key} has no outcome"))?;
        match outcome {
            ToolOutcome::Ok => ensure!(effects == 1, "{tool} said OK and had {effects} effects with {key}"),
            ToolOutcome::Unknown => {}
            _ => ensure!(effects == 0, "{tool} is {outcome:?} and had {effects} effects with {key}"),
        }
    }
    Ok(())
}

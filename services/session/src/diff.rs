//! How two runs of a session differ.
//!
//! Both logs are read once each into a `Story`: what a run consists of, aspect by aspect and place by place. Things are
//! equal when they are bit by bit, ids of the runs aside.

use std::collections::BTreeMap;

use mar_proto::session::{DiffRunsResponse, RunAspect, RunComparison, RunDifference, RunState};
use mar_runtime::status::Resource;
use uuid::Uuid;

use crate::error::Error;
use crate::log;
use crate::runs::{Runs, has_ended, stored_run};
use crate::store::RunRow;
use crate::view;
use story::{Story, Thing};

mod call;
mod story;

/// The most differences of one aspect that are told.
const MAX_TOLD: usize = 1_000;
/// Characters of a thing that are shown.
const MAX_SHOWN: usize = 1_024;
/// Events read at a time.
const READ_EVENTS: i64 = 256;
/// Payload read at a time.
const READ_BYTES: usize = 1 << 20;

/// Two runs to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The session of both.
    pub session: Uuid,
    /// The later run.
    pub run: Uuid,
    /// What it is compared with; `None` for the run that it was forked from.
    pub base: Option<Uuid>,
}

/// Compares two stored runs that have ended.
pub async fn diff(runs: &Runs, tenant: &str, pair: Pair) -> Result<DiffRunsResponse, Error> {
    let run = ended(runs, tenant, pair.session, pair.run).await?;
    let base = match pair.base {
        Some(base) => base,
        None => origin(&run)?,
    };
    let base = ended(runs, tenant, pair.session, base).await?;
    let comparisons = compare(&read(runs, &base).await?, &read(runs, &run).await?);
    Ok(DiffRunsResponse { base: view::run_name(pair.session, base.id), comparisons })
}

fn origin(run: &RunRow) -> Result<Uuid, Error> {
    let fork = stored_run(run)?.fork;
    let origin = fork.and_then(|fork| fork.run.parse().ok());
    let missing = || {
        let mut found = mar_runtime::violations::Violations::new();
        found.field("base", "must be given: the run was not forked from another");
        Error::Invalid(found)
    };
    origin.ok_or_else(missing)
}

async fn ended(runs: &Runs, tenant: &str, session: Uuid, run: Uuid) -> Result<RunRow, Error> {
    let name = view::run_name(session, run);
    let row = runs.store().run_get(tenant, run).await?.filter(|row| row.session == session);
    let row = row.ok_or_else(|| Error::NotFound { kind: Resource::Run, name: name.clone() })?;
    if has_ended(row.state) {
        return Ok(row);
    }
    let state = RunState::try_from(i32::from(row.state)).unwrap_or_default();
    Err(Error::RunState { name, state })
}

async fn read(runs: &Runs, row: &RunRow) -> Result<Story, Error> {
    let (mut story, mut next) = (Story::default(), 0);
    loop {
        let rows = runs.store().event_read(&row.tenant, row.id, next, READ_EVENTS, READ_BYTES).await?;
        let Some(last) = rows.last() else { return Ok(story) };
        next = last.seq + 1;
        for stored in &rows {
            let (leaf, event) = log::decode(row.id, stored)?;
            if stored.content.is_none() && !leaf.commitments.is_empty() {
                return Err(Error::PayloadsGone(view::run_name(row.session, row.id)));
            }
            story.take(&event);
        }
    }
}

/// Every aspect of two stories.
fn compare(base: &Story, run: &Story) -> Vec<RunComparison> {
    let (of_base, of_run) = call::pairs(base, run);
    let aspect = |aspect: RunAspect| {
        let none = BTreeMap::new();
        let (base, run) = match aspect {
            RunAspect::Verdicts => (&of_base.verdicts, &of_run.verdicts),
            RunAspect::Results => (&of_base.results, &of_run.results),
            _ => (
                base.things.get(&i32::from(aspect)).unwrap_or(&none),
                run.things.get(&i32::from(aspect)).unwrap_or(&none),
            ),
        };
        comparison(aspect, base, run)
    };
    let all = (1..).map_while(|number| RunAspect::try_from(number).ok());
    all.map(aspect).collect()
}

fn comparison(aspect: RunAspect, base: &BTreeMap<String, Thing>, run: &BTreeMap<String, Thing>) -> RunComparison {
    let mut places: Vec<&String> = base.keys().chain(run.keys().filter(|place| !base.contains_key(*place))).collect();
    places.sort_by_key(|place| in_order(place));
    let differs =
        |place: &&&String| base.get(**place).map(|thing| thing.bits) != run.get(**place).map(|thing| thing.bits);
    let differing: Vec<_> = places.iter().filter(differs).collect();
    let told = differing.iter().take(MAX_TOLD).map(|place| difference(place, base.get(**place), run.get(**place)));
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    RunComparison {
        aspect: aspect.into(),
        compared: count(places.len()),
        differences: told.collect(),
        left_out: count(differing.len().saturating_sub(MAX_TOLD)),
        may_vary: matches!(
            aspect,
            RunAspect::Selection
                | RunAspect::Turns
                | RunAspect::Calls
                | RunAspect::Answer
                | RunAspect::Outcome
                | RunAspect::Shortened
        ),
    }
}

/// Numbers in a place count as numbers.
fn in_order(place: &str) -> Vec<(u64, String)> {
    place.split(['/', '.', ' ']).map(|part| (part.parse().unwrap_or(u64::MAX), part.to_owned())).collect()
}

fn difference(place: &str, base: Option<&Thing>, run: Option<&Thing>) -> RunDifference {
    let same_words = base.zip(run).is_some_and(|(base, run)| shown(&base.text) == shown(&run.text));
    let show = |thing: Option<&Thing>| match thing {
        None => String::new(),
        // What is shown does not tell them apart.
        Some(thing) if same_words => format!("{} [sha256:{}]", shown(&thing.text), hex::encode(thing.bits)),
        Some(thing) => shown(&thing.text),
    };
    RunDifference { place: place.to_owned(), base: show(base), run: show(run) }
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

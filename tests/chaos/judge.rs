//! What must hold of everything that happened in a storm.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use mar_proto::session::ToolOutcome;
use mar_tests::caller::Caller;
use mar_tests::client::Client;
use mar_tests::oracle::{self, Scars};
use tonic::{Code, Status};

use crate::scene::{ONCE, SURE, journal};
use crate::story::Told;

/// A run that has ended: its followers saw each event once, in order, as it is stored; the chain holds and is sealed; no
/// counted limit was exceeded; every intent has its outcome.
///
/// The same holds of its child runs.
pub async fn run(client: Client, told: &Told) -> anyhow::Result<Scars> {
    let mut caller = Caller { client, gateway: String::new() };
    let mut scars = caller.judge(&told.seen).await?;
    let events = caller.client.events(&told.seen.name).await?;
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
        children.push((child, events));
    }
    scars += &oracle::check_family(&events, &children)?;
    Ok(scars)
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

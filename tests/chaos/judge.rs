//! What must hold of everything that happened in a storm.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use mar_proto::session::ToolOutcome;
use mar_tests::caller::Caller;
use mar_tests::client::Client;
use mar_tests::oracle::Scars;

use crate::scene::{ONCE, SURE, journal};
use crate::story::Told;

/// A run that has ended: its followers saw each event once, in order, as it is stored; the chain holds and is sealed; no
/// counted limit was exceeded; every intent has its outcome.
pub async fn run(client: Client, told: &Told) -> anyhow::Result<Scars> {
    let mut caller = Caller { client, gateway: String::new() };
    caller.judge(&told.seen).await
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

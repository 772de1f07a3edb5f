//! What sessions cost as their users meet them: real processes over TCP, a Postgres that writes to disk, Redis, and a
//! rehearsed model. `make bench-sessions` builds everything optimised and runs it on a machine that should do nothing else.
//!
//! `sessions [step] [storage] [takeover] [parked] [watched]`: the parts to measure, all without an argument.
//! `MAR_BENCH_RUNS` is the number of parked runs (10,000). Each figure stands beside its floor or its bound; nothing fails
//! when one is missed.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::fmt::Display;
use std::io::Write as _;
use std::time::Duration;

mod floor;
mod parked;
mod step;
mod storage;
mod takeover;

/// A line of the report.
fn say(what: impl Display, figure: impl Display, beside: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "  {what:<58} {figure:>12}   {beside}")?)
}

fn title(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

fn millis(span: Duration) -> String {
    format!("{:.2} ms", span.as_secs_f64() * 1e3)
}

/// The middle one of several, which are sorted by it.
fn median(spans: &mut [Duration]) -> Duration {
    spans.sort();
    spans.get(spans.len() / 2).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let all = ["step", "storage", "takeover", "parked", "watched"];
    if let Some(other) = wanted.iter().find(|one| !all.contains(&one.as_str())) {
        anyhow::bail!("`{other}` is none of {all:?}");
    }
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    if wants("step") {
        step::measure().await?;
    }
    if wants("storage") {
        storage::measure().await?;
    }
    if wants("takeover") {
        takeover::measure().await?;
    }
    if wants("parked") || wants("watched") {
        parked::measure(wants("parked"), wants("watched")).await?;
    }
    Ok(())
}

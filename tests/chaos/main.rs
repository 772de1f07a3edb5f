//! Storms: whole systems on a Postgres and a Redis of their own, replicas that die at named points and at random, stores
//! that come and go, callers who ask twice. What was acknowledged ends, nothing is done twice in silence, nobody misses
//! anything, no limit is exceeded.
//!
//! `make test` has a short storm. `make test-chaos` has the long one and shows that each fault of
//! `session --sabotage=…` is found. `MAR_CHAOS_SEED` chooses the seed, which a storm prints.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time")]

mod arms;
mod fork;
mod heirs;
mod judge;
mod replica;
mod report;
mod scene;
mod storm;
mod story;
mod tail;
mod upload;
mod weather;

use anyhow::ensure;
use mar_session::sabotage::Fault;
use tonic::Code;

use report::Report;
use storm::{Plan, Storm};

/// Deaths at each point that a long storm has at least.
const DEATHS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_short_storm() -> anyhow::Result<()> {
    let report = Storm::start(Plan::short()).await?.rage().await?;
    report.print()?;
    limits_bind(&report)?;
    ensure!(report.deltas > 0 && report.uploads > 0 && report.forks > 0, "nobody saw, uploaded or forked anything");
    for promoted in ["PostgresPromoted", "RedisPromoted"] {
        ensure!(report.weather.contains_key(promoted), "nothing was {promoted}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a quarter of an hour: make test-chaos"]
async fn a_long_storm() -> anyhow::Result<()> {
    let report = Storm::start(Plan::long()).await?.rage().await?;
    report.print()?;
    limits_bind(&report)?;
    for point in arms::points() {
        let deaths = report.deaths.get(point.name()).copied().unwrap_or(0);
        ensure!(deaths >= DEATHS, "{deaths} deaths at {point}");
    }
    Ok(())
}

/// Limits that are kept say something only where they bind, and where several draw on the same.
fn limits_bind(report: &Report) -> anyhow::Result<()> {
    ensure!(report.bound * 2 >= report.runs, "{} of {} runs had a limit that bound", report.bound, report.runs);
    ensure!(report.contended * 64 >= report.runs, "{} of {} runs were drawn on", report.contended, report.runs);
    Ok(())
}

/// Whether an error is of the way to the system, not of what it did: a slow machine, or a part that was away for too long.
fn is_of_the_way(cause: &(dyn std::error::Error + 'static)) -> bool {
    let status = cause.downcast_ref::<tonic::Status>().map(tonic::Status::code);
    cause.is::<tokio::time::error::Elapsed>()
        || cause.is::<tonic::transport::Error>()
        || cause.is::<std::io::Error>()
        || matches!(status, Some(Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown))
}

/// Whether a storm finds a fault, within 100 runs.
async fn is_found(fault: Fault) -> anyhow::Result<()> {
    // A system that does not come up is no finding.
    let storm = Storm::start(Plan::sabotaged(fault)).await?;
    match storm.rage().await {
        Ok(report) => anyhow::bail!("{} was not found in {} runs", fault.name(), report.runs),
        Err(error) if error.chain().any(is_of_the_way) => {
            Err(error.context(format!("{} kept the storm from its end, and nothing was found", fault.name())))
        }
        Err(error) => {
            storm::say(&format!("{} is found: {error:#}", fault.name()));
            Ok(())
        }
    }
}

macro_rules! sabotage {
    ($($name:ident: $fault:ident;)+) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            #[ignore = "takes minutes: make test-chaos"]
            async fn $name() -> anyhow::Result<()> {
                is_found(Fault::$fault).await
            }
        )+
    };
}

sabotage! {
    a_fence_that_is_skipped_is_found: SkipEpoch;
    a_reservation_that_is_skipped_is_found: SkipReserve;
    an_intent_that_is_skipped_is_found: SkipIntent;
    an_acknowledgement_before_the_commit_is_found: AckBeforeCommit;
    a_stale_counter_that_is_believed_is_found: StaleCounter;
    an_event_that_is_dropped_is_found: DropEvent;
}

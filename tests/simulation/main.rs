//! The production executor, state machine, takeovers, counters and followers in simulated worlds: time, network, stores and
//! peers are simulated and drawn from a seed, on one thread, so that a world that breaks an invariant breaks it again.
//!
//! `MAR_SIMULATION_SEED=n` repeats one world; `MAR_SIMULATION_SEEDS=n` looks at more of them.

#![expect(clippy::disallowed_methods, reason = "the simulation's own tasks live and die with their world's runtime")]

mod counters;
mod hearing;
mod history;
mod judge;
mod link;
mod peers;
mod purses;
mod sequel;
mod signals;
mod store;
mod story;
mod time;
mod transitions;
mod world;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::ensure;
use mar_session::crash::Point;
use mar_session::sabotage::Fault;

use judge::Judged;
use mar_tests::oracle::Scars;
use transitions::TRANSITIONS;
use world::{Outcome, forget, simulate};

/// Worlds that `make test` looks at.
const SEEDS: u64 = 400;
/// Worlds that are looked at in search of what is seldom.
const MOST_SEEDS: u64 = 2_400;
/// Worlds at a time.
const CHUNK: u64 = 100;
/// Worlds in which a fault has to show.
const SABOTAGED: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// What is counted beside steps and deaths; every one of it has to happen.
const MARKS: [&str; 16] = [
    "takeovers",
    "generations lost",
    "calls repeated",
    "doubts",
    "counters rebuilt",
    "commits delayed",
    "child runs",
    "draws",
    "slices",
    "summaries",
    "forks",
    "results replayed",
    "calls that a fork may not make",
    "runs that saw earlier turns",
    "runs that saw a summary of earlier turns",
    "prompts with earlier turns",
];

/// What came of many worlds.
#[derive(Debug, Default)]
struct Sum {
    worlds: u64,
    transitions: BTreeMap<(&'static str, &'static str), usize>,
    points: BTreeMap<Point, (u64, u64)>,
    endings: BTreeMap<String, usize>,
    marks: [usize; MARKS.len()],
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.worlds += 1;
        for (pair, times) in &outcome.judged.transitions {
            *self.transitions.entry(*pair).or_default() += times;
        }
        for (point, (passed, died)) in outcome.points {
            let sum = self.points.entry(point).or_default();
            *sum = (sum.0 + passed, sum.1 + died);
        }
        for (how, times) in outcome.endings {
            *self.endings.entry(how).or_default() += times;
        }
        let Judged { scars, glances, forks, .. } = outcome.judged;
        let Scars { claims, lost, repeated, unknown, rebuilt, delayed, children, refills, slices, .. } = scars;
        let replayed = scars.recorded.len();
        let of_runs = [claims, lost, repeated, unknown, rebuilt, delayed, children, refills, slices, scars.summaries];
        let of_forks = [forks, replayed, scars.refused];
        let of_sessions = [glances.turns, glances.summaries, glances.prompts];
        let marks = of_runs.into_iter().chain(of_forks).chain(of_sessions);
        self.marks.iter_mut().zip(marks).for_each(|(sum, times)| *sum += times);
    }

    fn join(&mut self, other: Self) {
        self.worlds += other.worlds;
        for (pair, times) in other.transitions {
            *self.transitions.entry(pair).or_default() += times;
        }
        for (point, (passed, died)) in other.points {
            let sum = self.points.entry(point).or_default();
            *sum = (sum.0 + passed, sum.1 + died);
        }
        for (how, times) in other.endings {
            *self.endings.entry(how).or_default() += times;
        }
        self.marks.iter_mut().zip(other.marks).for_each(|(sum, times)| *sum += times);
    }

    /// What nobody has done yet.
    fn lacks(&self) -> Option<String> {
        let untaken = TRANSITIONS.iter().filter(|pair| !self.transitions.contains_key(pair));
        let steps: Vec<String> = untaken.map(|(from, to)| format!("{from} to {to}")).collect();
        let lives = |point: &Point| self.points.get(point).is_none_or(|(_, died)| *died == 0);
        let points: Vec<&str> = world::points().filter(lives).map(Point::name).collect();
        let never = MARKS.iter().zip(self.marks).filter(|(_, times)| *times == 0).map(|(what, _)| *what);
        let never: Vec<&str> = never.collect();
        let any = !steps.is_empty() || !points.is_empty() || !never.is_empty();
        any.then(|| format!("no run went from {steps:?}, nobody died at {points:?}, there were no {never:?}"))
    }

    fn print(&self, seconds: f64) {
        say(&format!("{} worlds in {seconds:.1} s, {:.0} a minute", self.worlds, self.worlds as f64 * 60.0 / seconds));
        for point in world::points() {
            let (passed, died) = self.points.get(&point).copied().unwrap_or_default();
            say(&format!("  {:<22} passed {passed:>8}  died {died:>6}", point.name()));
        }
        for (how, times) in &self.endings {
            say(&format!("  {how:<40} {times:>6}"));
        }
        let marks: Vec<String> = MARKS.iter().zip(self.marks).map(|(what, times)| format!("{what} {times}")).collect();
        say(&format!("  {}", marks.join(", ")));
    }
}

/// Looks at worlds on every core; each is one thread's.
fn look(seeds: std::ops::Range<u64>) -> anyhow::Result<Sum> {
    let (next, broken) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let (sum, failure) = (Mutex::new(Sum::default()), Mutex::new(None));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while !broken.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    match simulate(seed, None) {
                        Ok(outcome) => sum.lock().unwrap_or_else(PoisonError::into_inner).add(outcome),
                        Err(error) => {
                            broken.store(true, Ordering::Relaxed);
                            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(sum.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

#[test]
fn worlds_hold() -> anyhow::Result<()> {
    if let Some(seed) = number("MAR_SIMULATION_SEED") {
        simulate(seed, None)?;
        return Ok(());
    }
    let began = Instant::now();
    let most = number("MAR_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut sum = Sum::default();
    let mut next = 1;
    // Beyond those that are always looked at, only until everything was taken.
    while next <= most || next <= MOST_SEEDS && sum.lacks().is_some() {
        let until = (next + CHUNK).min(most.max(next + CHUNK));
        sum.join(look(next..until)?);
        next = until;
    }
    sum.print(began.elapsed().as_secs_f64());
    for ((from, to), times) in &sum.transitions {
        let known = if TRANSITIONS.contains(&(*from, *to)) { "" } else { "   not in the list" };
        say(&format!("    {from:<20} {to:<20} {times:>6}{known}"));
    }
    match sum.lacks() {
        None => Ok(()),
        Some(lack) => anyhow::bail!("in {} worlds {lack}", sum.worlds),
    }
}

/// Worlds whose store goes back in time.
const FORGETFUL: u64 = 100;

#[test]
fn what_a_store_forgets_is_found_out_or_ends_all_the_same() -> anyhow::Result<()> {
    let (mut told, mut stopped) = (0, 0);
    let seeds = match number("MAR_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..FORGETFUL + 1,
    };
    let worlds = seeds.end - seeds.start;
    for seed in seeds {
        let outcome = forget(seed)?;
        (told, stopped) = (told + outcome.judged.bereft, stopped + outcome.judged.stopped);
    }
    say(&format!("{worlds} worlds forgot: {told} callers were told so, {stopped} runs were stopped for it"));
    ensure!(worlds < FORGETFUL || told > 0 && stopped > 0, "nothing was lost, or nobody knew");
    Ok(())
}

#[test]
fn a_world_repeats_itself() -> anyhow::Result<()> {
    for seed in 1..=5 {
        let (one, other) = (simulate(seed, None)?, simulate(seed, None)?);
        ensure!(one.judged.heads == other.judged.heads, "world {seed} had two histories");
        ensure!(one.points == other.points, "world {seed} passed other points");
    }
    Ok(())
}

/// A fault shows in one of the first worlds.
fn is_found(fault: Fault) -> anyhow::Result<()> {
    for seed in 1..=SABOTAGED {
        if let Err(error) = simulate(seed, Some(fault)) {
            say(&format!("{} shows in world {seed}: {error:#}", fault.name()));
            return Ok(());
        }
    }
    anyhow::bail!("{} does not show in {SABOTAGED} worlds", fault.name())
}

macro_rules! sabotage {
    ($($name:ident: $fault:ident;)+) => {
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                is_found(Fault::$fault)
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

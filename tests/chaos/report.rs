//! What a storm was like.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use mar_session::crash::Point;
use mar_tests::oracle::Scars;

use crate::judge::{self, Effects, Judged};
use crate::story::{Kind, Told};

/// What a storm was like.
#[derive(Debug, Default)]
pub struct Report {
    pub seed: u64,
    pub took: Duration,
    pub runs: usize,
    /// Runs whose limits bound, as their logs say.
    pub bound: usize,
    /// Runs on which several child runs drew.
    pub contended: usize,
    /// Deaths at each crash point.
    pub deaths: BTreeMap<String, usize>,
    /// What came of the runs, or uploads, in which somebody died there: how they ended, and how often.
    pub survived: BTreeMap<String, BTreeMap<String, usize>>,
    /// What happened from outside.
    pub weather: BTreeMap<String, usize>,
    /// How runs ended, by kind.
    pub outcomes: BTreeMap<(Kind, String), usize>,
    /// Runs that ended as they do when nothing is away for long.
    pub expected: usize,
    /// Requests and streams.
    pub tries: usize,
    /// Pieces of turns that followers were shown before.
    pub deltas: usize,
    /// Runs that were forked when they had ended.
    pub forks: usize,
    /// Runs whose input was streamed in.
    pub uploads: usize,
    pub scars: Scars,
    pub effects: Effects,
}

impl Report {
    /// Adds a run that was judged.
    pub fn add(&mut self, told: &Told, judged: &Judged) {
        let run = told.seen.ended.clone().unwrap_or_default();
        let ended = (run.state(), run.halt_reason());
        let how = judge::how(&run);
        self.runs += 1;
        self.bound += usize::from(judged.bound);
        self.contended += usize::from(judged.contended);
        self.expected += usize::from(ended == told.kind.expected());
        self.tries += told.tries;
        self.deltas += told.seen.deltas.fitting;
        self.uploads += usize::from(told.uploaded);
        self.forks += usize::from(judged.forked);
        *self.outcomes.entry((told.kind, how)).or_default() += 1;
        self.scars += &judged.scars;
    }

    /// Adds the deaths: at which points, and what came of the runs in which they were.
    pub fn die(&mut self, deaths: Vec<(String, String)>, ended: &BTreeMap<String, String>) {
        for (point, run) in deaths {
            *self.deaths.entry(point.clone()).or_default() += 1;
            // Of an admission that died with its answer the caller has another one, or the same after a repetition.
            let how = ended.get(&run).map_or("told to nobody", String::as_str);
            *self.survived.entry(point).or_default().entry(how.to_owned()).or_default() += 1;
        }
    }

    /// Prints it.
    pub fn print(&self) -> anyhow::Result<()> {
        let mut text = String::new();
        let seconds = self.took.as_secs_f64();
        writeln!(
            text,
            "storm {}: {} runs in {seconds:.0} s, {} with a limit that binds",
            self.seed, self.runs, self.bound
        )?;
        writeln!(text, "  {:<24} {:>6}", "deaths at", "")?;
        for point in crate::arms::points() {
            let deaths = self.deaths.get(point.name()).copied().unwrap_or(0);
            writeln!(text, "    {:<22} {deaths:>6}   {}", point.name(), point.meaning())?;
            let ends = self.survived.get(point.name()).into_iter().flatten();
            let ends: Vec<String> = ends.map(|(how, times)| format!("{times} {how}")).collect();
            if !ends.is_empty() {
                let what = if Point::OF_UPLOADS.contains(point) { "uploads" } else { "runs" };
                writeln!(text, "    {:<22} {:>6}   their {what}: {}", "", "", ends.join(", "))?;
            }
        }
        writeln!(text, "  from outside")?;
        for (kind, times) in &self.weather {
            writeln!(text, "    {kind:<22} {times:>6}")?;
        }
        writeln!(text, "  runs ended, {} of them as when nothing is away", self.expected)?;
        for ((kind, how), times) in &self.outcomes {
            writeln!(text, "    {:<22} {times:>6}   {how}", format!("{kind:?}"))?;
        }
        let scars = &self.scars;
        let marks = [
            ("takeovers", scars.claims),
            ("generations lost", scars.lost),
            ("calls repeated", scars.repeated),
            ("counters rebuilt", scars.rebuilt),
            ("commits delayed", scars.delayed),
            ("child runs", scars.children),
            ("draws on a parent", scars.refills),
            ("parents drawn on by four", self.contended),
            ("requests and streams", self.tries),
            ("pieces of turns shown", self.deltas),
            ("inputs streamed in", self.uploads),
            ("forks", self.forks),
            ("tool intents", self.effects.intents),
            ("tool calls", self.effects.calls),
            ("effects", self.effects.effects),
            ("doubts listed", self.effects.doubts),
        ];
        writeln!(text, "  marks")?;
        for (what, times) in marks {
            writeln!(text, "    {what:<22} {times:>6}")?;
        }
        crate::storm::say(&text);
        Ok(())
    }
}

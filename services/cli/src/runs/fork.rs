//! `mar runs fork`, `mar runs diff` and `mar runs repeat`: what a run would have done, and whether it does it again.

use mar_proto::session::{
    Concurrency, DiffRunsRequest, DiffRunsResponse, ForkRunRequest, RunComparison, RunDifference,
};
use serde_json::{Value, json};

use super::full_name;
use crate::args::{DiffArgs, ForkArgs, RunArg};
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::{Ink, Out, one_line};
use crate::progress::Progress;
use crate::report;
use crate::run::follow::{Follow, Followed, Source};
use crate::run::new_id;
use crate::table::{Align, count, table};

/// Longest value of a difference that is shown to people.
const VALUE: usize = 60;
/// Differences of an aspect that are shown to people.
const SHOWN: usize = 10;

pub(super) async fn fork(args: &ForkArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let request = ForkRunRequest {
        request_id: new_id(),
        name: full_name(&endpoint, &args.run).await?,
        through_seq: args.through,
        task: None,
        allow_effects: args.allow_effects,
        concurrency: if args.parallel { Concurrency::Parallel } else { Concurrency::Serial }.into(),
    };
    let followed = follow(&endpoint, request, Progress::new(out, args.json)).await?;
    if args.json {
        out.json(&followed.json());
    } else {
        out.lines(report::lines(&followed.run, out.result));
    }
    Ok(report::exit(&followed.run))
}

pub(super) async fn diff(args: &DiffArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let name = full_name(&endpoint, &args.run).await?;
    let base = match &args.base {
        Some(base) => full_name(&endpoint, base).await?,
        None => String::new(),
    };
    compare(&endpoint, DiffRunsRequest { name, base }, args.json, out).await
}

/// Runs it again on its recorded results, and says what came out the same.
pub(super) async fn repeat(args: &RunArg, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let base = full_name(&endpoint, &args.run).await?;
    let request = ForkRunRequest {
        request_id: new_id(),
        name: base.clone(),
        concurrency: Concurrency::Parallel.into(),
        ..ForkRunRequest::default()
    };
    let followed = follow(&endpoint, request, Progress::new(out, args.json)).await?;
    compare(&endpoint, DiffRunsRequest { name: followed.run.name, base }, args.json, out).await
}

async fn follow(endpoint: &Endpoint, request: ForkRunRequest, progress: Progress) -> Result<Followed, Failure> {
    let answer = endpoint.sessions()?.fork_run(endpoint.request(request)).await;
    let run = answer.map_err(|status| endpoint.failure(status))?.into_inner().run.unwrap_or_default();
    Follow::new(endpoint, progress, Source::Run(run.name))?.to_end().await
}

async fn compare(endpoint: &Endpoint, request: DiffRunsRequest, as_json: bool, out: Out) -> Result<Exit, Failure> {
    let name = request.name.clone();
    let answer = endpoint.sessions()?.diff_runs(endpoint.request(request)).await;
    let found = answer.map_err(|status| endpoint.failure(status))?.into_inner();
    let exit = if found.comparisons.iter().any(is_broken) { Exit::RunFailed } else { Exit::Done };
    if as_json {
        out.json(&to_json(&name, &found, exit));
    } else {
        out.lines(lines(&name, &found, out.result));
    }
    Ok(exit)
}

/// Whether something differs that no provider has a say in.
fn is_broken(found: &RunComparison) -> bool {
    !found.may_vary && !found.differences.is_empty()
}

fn lines(name: &str, found: &DiffRunsResponse, ink: Ink) -> Vec<String> {
    let columns =
        [("ASPECT", Align::Left), ("COMPARED", Align::Right), ("RESULT", Align::Left), ("DECIDED BY", Align::Left)];
    let rows: Vec<_> = found.comparisons.iter().map(row).collect();
    let mut lines = table(ink, &columns, &rows);
    for one in found.comparisons.iter().filter(|one| !one.differences.is_empty()) {
        lines.push(String::new());
        lines.push(ink.bold(&aspect(one)));
        lines.extend(one.differences.iter().take(SHOWN).map(difference));
        let more = i64::try_from(one.differences.len().saturating_sub(SHOWN)).unwrap_or_default() + one.left_out;
        if more > 0 {
            lines.push(format!("  and {} more", count(more)));
        }
    }
    lines.push(String::new());
    let broken = found.comparisons.iter().filter(|one| is_broken(one)).count();
    let vary = found.comparisons.iter().filter(|one| one.may_vary && !one.differences.is_empty()).count();
    let verdict = match (broken, vary) {
        (0, 0) => ink.good("EQUAL bit by bit"),
        (0, _) => ink.good("EQUAL but for what a provider may vary"),
        _ => ink.bad("DIFFERENT"),
    };
    let named = |wanted: fn(&RunComparison) -> bool| {
        let aspects: Vec<_> = found.comparisons.iter().filter(|one| wanted(one)).map(aspect).collect();
        if aspects.is_empty() { "nothing".to_owned() } else { aspects.join(", ") }
    };
    lines.push(format!("equal bit by bit     {}", named(|one| one.differences.is_empty())));
    lines.push(format!("a provider may vary  {}", named(|one| one.may_vary)));
    lines.push(format!("{verdict}  {name}"));
    lines.push(format!("compared with  {}", found.base));
    lines
}

fn row(found: &RunComparison) -> Vec<String> {
    let differing = i64::try_from(found.differences.len()).unwrap_or_default() + found.left_out;
    let result = if differing == 0 { "equal".to_owned() } else { format!("{} differ", count(differing)) };
    let decided = if found.may_vary { "provider" } else { "runtime" };
    vec![aspect(found), count(found.compared), result, decided.to_owned()]
}

fn difference(found: &RunDifference) -> String {
    let value = |text: &str| if text.is_empty() { "nothing".to_owned() } else { one_line(text, VALUE) };
    format!("  {}: {} → {}", one_line(&found.place, VALUE), value(&found.base), value(&found.run))
}

fn aspect(found: &RunComparison) -> String {
    found.aspect().as_str_name().trim_start_matches("RUN_ASPECT_").to_lowercase()
}

fn to_json(name: &str, found: &DiffRunsResponse, exit: Exit) -> Value {
    let difference = |one: &RunDifference| json!({ "place": one.place, "base": one.base, "run": one.run });
    let comparison = |one: &RunComparison| {
        json!({
            "aspect": aspect(one).to_uppercase(),
            "compared": one.compared,
            "equal": one.differences.is_empty(),
            "may_vary": one.may_vary,
            "differences": one.differences.iter().map(difference).collect::<Vec<_>>(),
            "left_out": one.left_out,
        })
    };
    json!({
        "run": name,
        "base": found.base,
        "comparisons": found.comparisons.iter().map(comparison).collect::<Vec<_>>(),
        "exit_code": exit.code(),
    })
}

#[cfg(test)]
mod tests {
    use mar_proto::session::RunAspect;

    use super::*;

    fn comparison(aspect: RunAspect, may_vary: bool, differs: bool) -> RunComparison {
        let difference = RunDifference { place: "2".into(), base: "Yes.".into(), run: "No.".into() };
        let differences = if differs { vec![difference] } else { Vec::new() };
        RunComparison { aspect: aspect.into(), compared: 1, may_vary, differences, left_out: 0 }
    }

    #[test]
    fn a_repetition_says_what_is_equal_and_what_a_provider_may_vary() {
        use RunAspect::{Prompt, Selection, Turns, Verdicts};
        let found = |verdicts: bool| DiffRunsResponse {
            base: "sessions/s/runs/a".into(),
            comparisons: vec![
                comparison(Prompt, false, false),
                comparison(Selection, true, false),
                comparison(Turns, true, true),
                comparison(Verdicts, false, verdicts),
            ],
        };
        let told = lines("sessions/s/runs/b", &found(false), Ink(false));
        assert!(told.contains(&"equal bit by bit     prompt, selection, verdicts".to_owned()), "{told:#?}");
        assert!(told.contains(&"a provider may vary  selection, turns".to_owned()), "{told:#?}");
        assert!(told.contains(&"EQUAL but for what a provider may vary  sessions/s/runs/b".to_owned()), "{told:#?}");
        let told = lines("sessions/s/runs/b", &found(true), Ink(false));
        assert!(told.contains(&"DIFFERENT  sessions/s/runs/b".to_owned()), "{told:#?}");
    }
}

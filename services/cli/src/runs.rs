//! `mar runs`: what has been run.

use std::time::Duration;

use mar_proto::session::{
    CancelRunRequest, Event, GetRunRequest, GetSessionRequest, ListEventsRequest, ListRunsRequest, Run, RunState,
    SessionSeal,
};
use mar_runtime::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::args::{EndpointArgs, RunsCommand, RunsListArgs, StateName};
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::{Ink, Out, one_line};
use crate::progress::Progress;
use crate::progress::describe::{Warned, describe, input, output, state};
use crate::report;
use crate::run::follow::{Follow, Source};
use crate::run::task::resource;
use crate::table::{Align, count, span, table, usd};
use crate::waiting;
use tree::Tree;

mod fork;
mod hold;
mod submit;
mod tree;
mod verify;

const PAGE: i32 = 200;
/// How many of the newest runs the start of an id is looked up among.
const LOOKUP: usize = 2_000;

/// `mar runs`.
///
/// # Errors
/// Nothing answers, or the request is refused.
pub async fn runs(command: RunsCommand, out: Out) -> Result<Exit, Failure> {
    match command {
        RunsCommand::List(args) => list(&args, out).await,
        RunsCommand::Show(args) => show(&args.run, &args.endpoint, args.json, out).await,
        RunsCommand::Watch(args) => watch(&args.run, &args.endpoint, args.json, out).await,
        RunsCommand::Verify(args) => verify::verify(&args.run, &args.endpoint, args.json, out).await,
        RunsCommand::Fork(args) => fork::fork(&args, out).await,
        RunsCommand::Repeat(args) => fork::repeat(&args, out).await,
        RunsCommand::Diff(args) => fork::diff(&args, out).await,
        RunsCommand::Pause(args) => hold::pause(&args, out).await,
        RunsCommand::Resume(args) => hold::resume(&args, out).await,
        RunsCommand::Submit(args) => submit::submit(&args, out).await,
        RunsCommand::Answer(args) => submit::answer(&args, out).await,
        RunsCommand::Cancel(args) => cancel(&args.run, &args.endpoint, args.json, out).await,
    }
}

async fn list(args: &RunsListArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.page.endpoint)?;
    let parent = args.session.as_deref().map_or("sessions/-".to_owned(), |session| resource("sessions/", session));
    let wanted = args.state.map_or(RunState::Unspecified, run_state);
    let runs = fetch(&endpoint, &parent, wanted, args.page.limit as usize).await?;
    if args.page.json {
        out.json(&json!({ "runs": runs.iter().map(report::json).collect::<Vec<_>>() }));
        return Ok(Exit::Done);
    }
    if runs.is_empty() {
        out.note("No runs yet. Start one with: mar run \"…\"");
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = runs.iter().map(row).collect();
    let columns = [
        ("STATE", Align::Left),
        ("TYPE", Align::Left),
        ("STEPS", Align::Right),
        ("TOKENS", Align::Right),
        ("COST", Align::Right),
        ("AGE", Align::Right),
        ("RUN", Align::Left),
    ];
    out.lines(table(out.result, &columns, &rows));
    Ok(Exit::Done)
}

fn row(run: &Run) -> Vec<String> {
    let totals = run.totals.unwrap_or_default();
    let usage = totals.usage.unwrap_or_default();
    vec![
        waiting::state_text(run),
        one_line(report::task_type(run), 20),
        count(totals.steps),
        count(input(&usage) + output(&usage)),
        usd(usage.cost_nano_usd),
        run.create_time.as_ref().map_or("-".to_owned(), age),
        run.name.clone(),
    ]
}

/// How long ago something was.
pub(crate) fn age(created: &prost_types::Timestamp) -> String {
    let now = SystemClock::new().now().unix_timestamp();
    match u64::try_from(now.saturating_sub(created.seconds)) {
        Ok(0) | Err(_) => "now".to_owned(),
        Ok(seconds) => span(Duration::from_secs(seconds)),
    }
}

fn run_state(name: StateName) -> RunState {
    match name {
        StateName::Pending => RunState::Pending,
        StateName::Running => RunState::Running,
        StateName::Waiting => RunState::Waiting,
        StateName::Succeeded => RunState::Succeeded,
        StateName::Failed => RunState::Failed,
        StateName::Halted => RunState::Halted,
        StateName::Denied => RunState::Denied,
        StateName::Cancelled => RunState::Cancelled,
    }
}

async fn fetch(endpoint: &Endpoint, parent: &str, wanted: RunState, limit: usize) -> Result<Vec<Run>, Failure> {
    let mut client = endpoint.sessions()?;
    let (mut runs, mut page_token) = (Vec::new(), String::new());
    loop {
        let missing = i32::try_from(limit - runs.len()).unwrap_or(PAGE).min(PAGE);
        let request =
            ListRunsRequest { parent: parent.to_owned(), page_size: missing, page_token, state: wanted.into() };
        let page = client.list_runs(endpoint.request(request)).await.map_err(|status| endpoint.failure(status))?;
        let page = page.into_inner();
        runs.extend(page.runs);
        if page.next_page_token.is_empty() || runs.len() >= limit {
            runs.truncate(limit);
            return Ok(runs);
        }
        page_token = page.next_page_token;
    }
}

/// The full name of a run that is given by its name, as `session/run`, by its id, or by the start of it.
pub(crate) async fn full_name(endpoint: &Endpoint, run: &str) -> Result<String, Failure> {
    if run.starts_with("sessions/") {
        return Ok(run.to_owned());
    }
    if let Some((session, run)) = run.split_once('/') {
        return Ok(format!("sessions/{session}/runs/{run}"));
    }
    let runs = fetch(endpoint, "sessions/-", RunState::Unspecified, LOOKUP).await?;
    let id = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let found: Vec<_> = runs.into_iter().map(|found| found.name).filter(|name| id(name).starts_with(run)).collect();
    match found.as_slice() {
        [name] => Ok(name.clone()),
        [] => Err(Failure::new(Exit::NotFound, format!("no run starts with {}", one_line(run, 80)))
            .hint(format!("Looked among the newest {LOOKUP}; `mar runs list` shows them."))),
        many => {
            let mut failure = Failure::usage(format!("{} runs start with {}", many.len(), one_line(run, 80)));
            for name in many.iter().take(5) {
                failure = failure.hint(name.clone());
            }
            Err(failure)
        }
    }
}

async fn events(endpoint: &Endpoint, name: &str) -> Result<Vec<Event>, Failure> {
    let mut client = endpoint.sessions()?;
    let (mut events, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListEventsRequest { parent: name.to_owned(), page_size: PAGE, page_token, include_leaf: false };
        let page = client.list_events(endpoint.request(request)).await.map_err(|status| endpoint.failure(status))?;
        let page = page.into_inner();
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            return Ok(events);
        }
        page_token = page.next_page_token;
    }
}

async fn show(run: &str, endpoint: &EndpointArgs, as_json: bool, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(endpoint)?;
    let name = full_name(&endpoint, run).await?;
    let request = endpoint.request(GetRunRequest { name: name.clone() });
    let answer = endpoint.sessions()?.get_run(request).await.map_err(|status| endpoint.failure(status))?;
    let run = answer.into_inner().run.unwrap_or_default();
    let events = events(&endpoint, &name).await?;
    let session_seal = session_seal(&endpoint, &run.name).await?;
    let (tree, by_children) = (Tree::below(&endpoint, &run).await?, tree::used_by_children(&events));
    if as_json {
        let mut value = report::json(&run);
        if let Value::Object(fields) = &mut value {
            fields.insert("session_seal".into(), session_seal.as_ref().map_or(Value::Null, report::session_seal));
            fields.insert("events".into(), events.iter().map(report::event_json).collect());
            fields.insert("children".into(), tree.json());
            fields.insert("children_left_out".into(), tree.left_out().into());
            fields.insert("used_by_children".into(), by_children.as_ref().map_or(Value::Null, report::reservation));
        }
        out.json(&value);
        return Ok(Exit::Done);
    }
    out.lines(event_lines(&events, out.result));
    out.line("");
    out.lines(tree.lines(&run, out.result));
    if run.seal.is_some() || run.end_time.is_some() {
        out.lines(report::beside_children(&run, by_children.as_ref(), out.result));
    } else {
        out.line(format!("{}  {}", out.result.bold(&waiting::state_text(&run)), run.name));
        out.lines(waiting::hints(&run, out.result));
    }
    if let Some(seal) = session_seal {
        out.line(format!("session     sealed {}  ({} runs)", seal.hash, count(seal.runs)));
    }
    Ok(Exit::Done)
}

/// The seal of a run's session, once the session has ended.
async fn session_seal(endpoint: &Endpoint, run: &str) -> Result<Option<SessionSeal>, Failure> {
    let name = run.split("/runs/").next().unwrap_or_default().to_owned();
    let request = endpoint.request(GetSessionRequest { name });
    let answer = endpoint.sessions()?.get_session(request).await.map_err(|status| endpoint.failure(status))?;
    Ok(answer.into_inner().session.and_then(|session| session.seal))
}

fn event_lines(events: &[Event], ink: Ink) -> Vec<String> {
    let mut warned = Warned::default();
    let line = |event: &Event| {
        let text = describe(event, &mut warned, ink)?;
        let time = event.body.as_ref().and_then(|leaf| leaf.time.as_ref()).map(report::timestamp).unwrap_or_default();
        let clock = time.get(11..23).unwrap_or(&time);
        Some(format!("{} {text}", ink.dim(&format!("{:>4} {clock:<12}", event.seq))))
    };
    events.iter().filter_map(line).collect()
}

async fn watch(run: &str, endpoint: &EndpointArgs, as_json: bool, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(endpoint)?;
    let name = full_name(&endpoint, run).await?;
    let followed = Follow::new(&endpoint, Progress::new(out, as_json), Source::Run(name))?.to_end().await?;
    if as_json {
        out.json(&followed.json());
    } else {
        out.lines(report::lines(&followed.run, out.result));
    }
    Ok(report::exit(&followed.run))
}

async fn cancel(run: &str, endpoint: &EndpointArgs, as_json: bool, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(endpoint)?;
    let name = full_name(&endpoint, run).await?;
    let request = endpoint.request(CancelRunRequest { request_id: String::new(), name });
    let answer = endpoint.sessions()?.cancel_run(request).await.map_err(|status| endpoint.failure(status))?;
    let run = answer.into_inner().run.unwrap_or_default();
    if as_json {
        out.json(&report::json(&run));
    } else {
        out.line(format!("{}  {}", state(run.state()), run.name));
    }
    Ok(Exit::Done)
}

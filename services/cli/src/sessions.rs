//! `mar sessions`: the scopes that runs happen in.

use mar_proto::session::{
    EndSessionRequest, EraseSessionRequest, GetSessionRequest, ListSessionsRequest, Session, SessionState,
};
use serde_json::{Value, json};

use crate::args::{EraseArgs, SessionArg, SessionStateName, SessionsCommand, SessionsListArgs};
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::{Out, one_line};
use crate::report::{session_seal, timestamp};
use crate::run::task::resource;
use crate::runs::age;
use crate::table::{Align, count, table};

const PAGE: i32 = 200;

/// `mar sessions`.
///
/// # Errors
/// Nothing answers, the request is refused, or nobody agreed to an erasure.
pub async fn sessions(command: SessionsCommand, out: Out) -> Result<Exit, Failure> {
    match command {
        SessionsCommand::List(args) => list(&args, out).await,
        SessionsCommand::Show(args) => show(&args, out).await,
        SessionsCommand::End(args) => end(&args, out).await,
        SessionsCommand::Erase(args) => erase(&args, out).await,
    }
}

async fn list(args: &SessionsListArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.page.endpoint)?;
    let sessions = fetch(&endpoint, args).await?;
    if args.page.json {
        out.json(&json!({ "sessions": sessions.iter().map(to_json).collect::<Vec<_>>() }));
        return Ok(Exit::Done);
    }
    if sessions.is_empty() {
        out.note("No sessions.");
        return Ok(Exit::Done);
    }
    let columns = [("STATE", Align::Left), ("AGE", Align::Right), ("PURPOSE", Align::Left), ("SESSION", Align::Left)];
    let rows: Vec<_> = sessions.iter().map(row).collect();
    out.lines(table(out.result, &columns, &rows));
    Ok(Exit::Done)
}

async fn fetch(endpoint: &Endpoint, args: &SessionsListArgs) -> Result<Vec<Session>, Failure> {
    let (state, limit) = (args.state.map_or(SessionState::Unspecified, wanted), args.page.limit as usize);
    let mut client = endpoint.sessions()?;
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let page_size = i32::try_from(limit - found.len()).unwrap_or(PAGE).min(PAGE);
        let request = ListSessionsRequest { page_size, page_token, state: state.into() };
        let page = client.list_sessions(endpoint.request(request)).await.map_err(|status| endpoint.failure(status))?;
        let page = page.into_inner();
        found.extend(page.sessions);
        if page.next_page_token.is_empty() || found.len() >= limit {
            found.truncate(limit);
            return Ok(found);
        }
        page_token = page.next_page_token;
    }
}

const fn wanted(state: SessionStateName) -> SessionState {
    match state {
        SessionStateName::Open => SessionState::Open,
        SessionStateName::Ending => SessionState::Ending,
        SessionStateName::Ended => SessionState::Ended,
        SessionStateName::Erased => SessionState::Erased,
    }
}

fn row(session: &Session) -> Vec<String> {
    let purpose = if session.purpose.is_empty() { "-".to_owned() } else { one_line(&session.purpose, 40) };
    vec![state(session), session.create_time.as_ref().map_or("-".to_owned(), age), purpose, session.name.clone()]
}

fn state(session: &Session) -> String {
    let state = session.state().as_str_name().trim_start_matches("SESSION_STATE_");
    if session.legal_hold { format!("{state}, held") } else { state.to_owned() }
}

async fn show(args: &SessionArg, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let session = read(&endpoint, &resource("sessions/", &args.session)).await?;
    print(&session, args.json, out);
    Ok(Exit::Done)
}

async fn end(args: &SessionArg, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let session = ended(&endpoint, resource("sessions/", &args.session)).await?;
    print(&session, args.json, out);
    Ok(Exit::Done)
}

async fn erase(args: &EraseArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.session.endpoint)?;
    let name = resource("sessions/", &args.session.session);
    if !args.yes {
        let session = read(&endpoint, &name).await?;
        let text = format!("{} ({}) is not erased without --yes", session.name, state(&session));
        return Err(Failure::usage(text)
            .hint("It destroys every payload of the session and its runs, and its keys. Nothing brings them back."));
    }
    if args.end {
        ended(&endpoint, name.clone()).await?;
    }
    let request = endpoint.request(EraseSessionRequest { request_id: String::new(), name });
    let answer = endpoint.sessions()?.erase_session(request).await.map_err(|status| endpoint.failure(status))?;
    print(&answer.into_inner().session.unwrap_or_default(), args.session.json, out);
    Ok(Exit::Done)
}

async fn read(endpoint: &Endpoint, name: &str) -> Result<Session, Failure> {
    let request = endpoint.request(GetSessionRequest { name: name.to_owned() });
    let answer = endpoint.sessions()?.get_session(request).await.map_err(|status| endpoint.failure(status))?;
    Ok(answer.into_inner().session.unwrap_or_default())
}

async fn ended(endpoint: &Endpoint, name: String) -> Result<Session, Failure> {
    let request = endpoint.request(EndSessionRequest { request_id: String::new(), name });
    let answer = endpoint.sessions()?.end_session(request).await.map_err(|status| endpoint.failure(status))?;
    Ok(answer.into_inner().session.unwrap_or_default())
}

fn print(session: &Session, as_json: bool, out: Out) {
    if as_json {
        out.json(&to_json(session));
    } else {
        out.lines(lines(session));
    }
}

fn lines(session: &Session) -> Vec<String> {
    let mut lines = vec![format!("{}  {}", state(session), session.name)];
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("{name:<11} {}", one_line(value, 300)));
        }
    };
    let time = |time: &Option<prost_types::Timestamp>| time.as_ref().map(timestamp).unwrap_or_default();
    field("purpose", &session.purpose);
    field("principal", &session.principal);
    field("end user", &session.end_user);
    field("environment", &session.environment);
    for (key, value) in &session.labels {
        field("label", &format!("{key}={value}"));
    }
    field("started", &time(&session.create_time));
    field("ended", &time(&session.end_time));
    if let Some(seal) = &session.seal {
        field("sealed", &format!("{}  ({} runs)", seal.hash, count(seal.runs)));
    }
    lines
}

fn to_json(session: &Session) -> Value {
    let time = |time: &Option<prost_types::Timestamp>| time.as_ref().map(timestamp);
    json!({
        "session": session.name,
        "state": session.state().as_str_name().trim_start_matches("SESSION_STATE_"),
        "legal_hold": session.legal_hold,
        "principal": session.principal,
        "end_user": session.end_user,
        "environment": session.environment,
        "purpose": session.purpose,
        "labels": session.labels,
        "create_time": time(&session.create_time),
        "update_time": time(&session.update_time),
        "end_time": time(&session.end_time),
        "etag": session.etag,
        "seal": session.seal.as_ref().map(session_seal),
    })
}

//! `mar hooks`: what could not be told.

use mar_proto::session::{DeadNotice, ListDeadNoticesRequest, RetryDeadNoticeRequest};
use serde_json::{Value, json};

use crate::args::{DeadArgs, HooksCommand, RetryArgs};
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::{Out, one_line};
use crate::report::timestamp;
use crate::runs::age;
use crate::table::{Align, table};

const PAGE: i32 = 200;

/// `mar hooks`.
///
/// # Errors
/// Nothing answers, the request is refused, or the hook does not take the notice.
pub async fn hooks(command: HooksCommand, out: Out) -> Result<Exit, Failure> {
    match command {
        HooksCommand::Dead(args) => dead(&args, out).await,
        HooksCommand::Retry(args) => retry(&args, out).await,
    }
}

async fn dead(args: &DeadArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.page.endpoint)?;
    let found = fetch(&endpoint, &format!("hooks/{}", args.hook), args.page.limit as usize).await?;
    if args.page.json {
        out.json(&json!({ "notices": found.iter().map(to_json).collect::<Vec<_>>() }));
        return Ok(Exit::Done);
    }
    if found.is_empty() {
        out.note("No notice is dead.");
        return Ok(Exit::Done);
    }
    let columns = [
        ("AGE", Align::Right),
        ("KIND", Align::Left),
        ("ATTEMPTS", Align::Right),
        ("FAILURE", Align::Left),
        ("NOTICE", Align::Left),
    ];
    let rows: Vec<_> = found.iter().map(row).collect();
    out.lines(table(out.result, &columns, &rows));
    Ok(Exit::Done)
}

fn row(notice: &DeadNotice) -> Vec<String> {
    let sent: Value = serde_json::from_str(&notice.notice_json).unwrap_or_default();
    vec![
        notice.time.as_ref().map_or("-".to_owned(), age),
        one_line(sent["kind"].as_str().unwrap_or("-"), 40),
        notice.attempts.to_string(),
        one_line(&notice.failure, 60),
        notice.name.clone(),
    ]
}

fn to_json(notice: &DeadNotice) -> Value {
    json!({
        "name": notice.name,
        "session": notice.session,
        "notice": serde_json::from_str::<Value>(&notice.notice_json).unwrap_or_default(),
        "failure": notice.failure,
        "attempts": notice.attempts,
        "time": notice.time.as_ref().map(timestamp),
    })
}

async fn fetch(endpoint: &Endpoint, parent: &str, limit: usize) -> Result<Vec<DeadNotice>, Failure> {
    let mut client = endpoint.sessions()?;
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let page_size = i32::try_from(limit - found.len()).unwrap_or(PAGE).min(PAGE);
        let request = ListDeadNoticesRequest { parent: parent.to_owned(), page_size, page_token };
        let page = client.list_dead_notices(endpoint.request(request)).await;
        let page = page.map_err(|status| endpoint.failure(status))?.into_inner();
        found.extend(page.notices);
        if page.next_page_token.is_empty() || found.len() >= limit {
            found.truncate(limit);
            return Ok(found);
        }
        page_token = page.next_page_token;
    }
}

async fn retry(args: &RetryArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let request = endpoint.request(RetryDeadNoticeRequest { name: args.notice.clone() });
    endpoint.sessions()?.retry_dead_notice(request).await.map_err(|status| endpoint.failure(status))?;
    if args.json {
        out.json(&json!({ "name": args.notice, "taken": true }));
    } else {
        out.line(format!("taken  {}", one_line(&args.notice, 300)));
    }
    Ok(Exit::Done)
}

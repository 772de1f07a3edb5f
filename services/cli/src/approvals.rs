//! `mar approvals`: calls that wait for people.

use mar_proto::session::{Approval, ApprovalState, ListApprovalsRequest};
use mar_runtime::clock::{Clock as _, SystemClock};
use serde_json::json;

use crate::args::{ApprovalArg, ApprovalStateName, ApprovalsCommand, ApprovalsListArgs};
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::{Out, one_line};
use crate::progress::describe::tool_name;
use crate::runs::{age, full_name};
use crate::table::{Align, table};
use crate::waiting::approval_state;

mod call;
mod decide;
mod exact;
mod name;

const PAGE: i32 = 200;

/// `mar approvals`.
///
/// # Errors
/// Nothing answers, the request is refused, or nobody agreed to a decision.
pub async fn approvals(command: ApprovalsCommand, out: Out) -> Result<Exit, Failure> {
    match command {
        ApprovalsCommand::List(args) => list(&args, out).await,
        ApprovalsCommand::Show(args) => show(&args, out).await,
        ApprovalsCommand::Approve(args) => decide::decide(&args, ApprovalState::Approved, out).await,
        ApprovalsCommand::Deny(args) => decide::decide(&args, ApprovalState::Denied, out).await,
    }
}

async fn list(args: &ApprovalsListArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.page.endpoint)?;
    let parent = match &args.run {
        Some(run) => full_name(&endpoint, run).await?,
        None => "sessions/-".to_owned(),
    };
    let found = fetch(&endpoint, &parent, wanted(args.state), args.page.limit as usize).await?;
    if args.page.json {
        out.json(&json!({ "approvals": found.iter().map(call::to_json).collect::<Vec<_>>() }));
        return Ok(Exit::Done);
    }
    if found.is_empty() {
        out.note(if args.state == ApprovalStateName::Pending { "Nothing waits for a decision." } else { "None." });
        return Ok(Exit::Done);
    }
    let with_state = args.state == ApprovalStateName::All;
    let mut columns = vec![
        ("AGE", Align::Right),
        ("EXPIRES IN", Align::Right),
        ("TOOL", Align::Left),
        ("GROUP", Align::Left),
        ("DECISIONS", Align::Right),
        ("APPROVAL", Align::Left),
    ];
    if with_state {
        columns.insert(0, ("STATE", Align::Left));
    }
    let now = SystemClock::new().now().unix_timestamp();
    let rows: Vec<_> = found.iter().map(|approval| row(approval, now, with_state)).collect();
    out.lines(table(out.result, &columns, &rows));
    Ok(Exit::Done)
}

fn wanted(state: ApprovalStateName) -> ApprovalState {
    match state {
        ApprovalStateName::Pending => ApprovalState::Pending,
        ApprovalStateName::Approved => ApprovalState::Approved,
        ApprovalStateName::Denied => ApprovalState::Denied,
        ApprovalStateName::Expired => ApprovalState::Expired,
        ApprovalStateName::All => ApprovalState::Unspecified,
    }
}

fn row(approval: &Approval, now: i64, with_state: bool) -> Vec<String> {
    let group = if approval.group.is_empty() { "anybody else".to_owned() } else { one_line(&approval.group, 40) };
    let mut cells = vec![
        approval.create_time.as_ref().map_or("-".to_owned(), age),
        call::expires_in(approval, now),
        exact::visible(&tool_name(&approval.tool)),
        group,
        format!("{}/{}", call::approved(approval), approval.needed),
        approval.name.clone(),
    ];
    if with_state {
        cells.insert(0, approval_state(approval.state()).to_owned());
    }
    cells
}

async fn fetch(
    endpoint: &Endpoint,
    parent: &str,
    state: ApprovalState,
    limit: usize,
) -> Result<Vec<Approval>, Failure> {
    let mut client = endpoint.sessions()?;
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let page_size = i32::try_from(limit - found.len()).unwrap_or(PAGE).min(PAGE);
        let request = ListApprovalsRequest { parent: parent.to_owned(), page_size, page_token, state: state.into() };
        let page = client.list_approvals(endpoint.request(request)).await.map_err(|status| endpoint.failure(status))?;
        let page = page.into_inner();
        found.extend(page.approvals);
        if page.next_page_token.is_empty() || found.len() >= limit {
            found.truncate(limit);
            return Ok(found);
        }
        page_token = page.next_page_token;
    }
}

async fn show(args: &ApprovalArg, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let approval = read(&endpoint, &args.approval).await?;
    if args.json {
        out.json(&call::to_json(&approval));
    } else {
        out.lines(call::lines(&approval, SystemClock::new().now().unix_timestamp(), out.result));
    }
    Ok(Exit::Done)
}

/// The approval that somebody means.
async fn read(endpoint: &Endpoint, given: &str) -> Result<Approval, Failure> {
    let (run, id) = name::parse(given)?;
    let run = full_name(endpoint, run).await?;
    let wanted = format!("{run}/approvals/{id}");
    let found = fetch(endpoint, &run, ApprovalState::Unspecified, usize::MAX).await?;
    let none = || {
        Failure::new(Exit::NotFound, format!("there is no approval {}", one_line(&wanted, 200)))
            .hint(format!("`mar approvals list --state all --run {}` shows those of the run.", one_line(&run, 200)))
    };
    found.into_iter().find(|approval| approval.name == wanted).ok_or_else(none)
}

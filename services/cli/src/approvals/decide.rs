//! `mar approvals approve` and `mar approvals deny`: what is shown is what is decided on.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use mar_proto::session::{Approval, ApprovalState, ResolveApprovalRequest};
use mar_proto::types::ErrorReason;
use mar_runtime::clock::{Clock as _, SystemClock};
use mar_runtime::status::Reason;
use tonic::Status;

use super::{call, read};
use crate::args::DecideArgs;
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::Out;
use crate::run::new_id;
use crate::waiting::{approval_state, group_text};

/// Longest answer that is read.
const ANSWER: u64 = 64;

pub(super) async fn decide(args: &DecideArgs, resolution: ApprovalState, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.approval.endpoint)?;
    let asked = read(&endpoint, &args.approval.approval).await?;
    let can_ask = io::stdin().is_terminal() && io::stderr().is_terminal();
    // Scripts that want JSON have the call in it, and nothing beside it.
    if !args.approval.json || can_ask {
        for line in call::lines(&asked, SystemClock::new().now().unix_timestamp(), out.remark) {
            out.note(line);
        }
    }
    // What is not open is for the runtime to refuse, with its reason.
    if asked.state() == ApprovalState::Pending && !args.yes {
        agree(question(resolution, asked.in_doubt), can_ask, out)?;
    }
    let request = ResolveApprovalRequest {
        request_id: new_id(),
        name: asked.name.clone(),
        call_digest: asked.call_digest.clone(),
        resolution: resolution.into(),
        comment: args.comment.clone(),
    };
    let answer = endpoint.sessions()?.resolve_approval(endpoint.request(request)).await;
    let answer = answer.map_err(|status| refused(&endpoint, status))?.into_inner().approval.unwrap_or_default();
    if args.approval.json {
        out.json(&call::to_json(&answer));
    } else {
        out.line(format!("{}  {}", standing(&answer), answer.name));
    }
    Ok(Exit::Done)
}

/// What is asked. To approve a call of which nobody knows whether it took effect is to issue it a second time.
fn question(resolution: ApprovalState, in_doubt: bool) -> &'static str {
    match (resolution, in_doubt) {
        (ApprovalState::Approved, false) => "Approve this call?",
        (ApprovalState::Approved, true) => "Issue this call again?",
        (_, false) => "Deny this call?",
        (_, true) => "Leave it at an unknown outcome?",
    }
}

/// Nothing but a yes to the call that was shown is one.
fn agree(question: &str, can_ask: bool, out: Out) -> Result<(), Failure> {
    if !can_ask {
        return Err(Failure::usage("there is no terminal to ask on; nothing was decided")
            .hint("Look at the call, and decide on it with --yes."));
    }
    // Nothing can be done about a terminal that shows nothing: it then gives no answer either.
    let _ = write!(io::stderr().lock(), "{} ", out.remark.bold(&format!("{question} [y/N]")));
    let mut answer = String::new();
    let answered = io::stdin().lock().take(ANSWER).read_line(&mut answer);
    answered.map_err(|error| Failure::usage(format!("the answer cannot be read: {error}; nothing was decided")))?;
    if matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES") {
        return Ok(());
    }
    Err(Failure::new(Exit::Left, "nothing was decided"))
}

/// `APPROVED`, or what is missing yet.
fn standing(approval: &Approval) -> String {
    let state = approval_state(approval.state());
    let missing = usize::try_from(approval.needed).unwrap_or_default().saturating_sub(call::approved(approval));
    if approval.state() == ApprovalState::Pending && missing > 0 {
        return format!("{state}, needs {missing} more of {}", group_text(&approval.group));
    }
    state.to_owned()
}

fn refused(endpoint: &Endpoint, status: Status) -> Failure {
    let reason = Reason::of(&status);
    let failure = endpoint.failure(status);
    match reason {
        Some(ErrorReason::ApprovalNotAllowed) => failure
            .hint("A call is decided on by somebody of its group, never by who started the run. Whose key it is says")
            .hint("who decides: --key, or MAR_API_KEY."),
        Some(ErrorReason::ApprovalState) => failure.hint("`mar approvals show` says where it stands."),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told() {
        let mut approval = Approval { group: "office".into(), needed: 2, ..Approval::default() };
        approval.set_state(ApprovalState::Pending);
        assert_eq!(standing(&approval), "PENDING, needs 2 more of group office");
        approval.set_state(ApprovalState::Denied);
        assert_eq!(standing(&approval), "DENIED");
    }
}

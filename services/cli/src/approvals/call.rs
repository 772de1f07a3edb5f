//! The exact call that an approval is bound to.

use std::time::Duration;

use mar_proto::session::{Approval, ApprovalDecision, ApprovalState};
use serde_json::{Value, json};

use super::exact::{indented, visible};
use crate::out::{Ink, one_line};
use crate::report::timestamp;
use crate::table::span;
use crate::waiting::approval_state;

/// The most of a reason or a comment that is shown; neither is longer.
const TEXT: usize = 2_000;

/// How many have approved.
pub(super) fn approved(approval: &Approval) -> usize {
    approval.decisions.iter().filter(|decision| decision.resolution() == ApprovalState::Approved).count()
}

/// `57m`; a dash for approvals that are not open.
pub(super) fn expires_in(approval: &Approval, now: i64) -> String {
    let Some(at) = approval.expire_time.as_ref().filter(|_| approval.state() == ApprovalState::Pending) else {
        return "-".to_owned();
    };
    match u64::try_from(at.seconds.saturating_sub(now)) {
        Ok(0) | Err(_) => "lapsed".to_owned(),
        Ok(seconds) => span(Duration::from_secs(seconds)),
    }
}

/// All that there is to know before a decision.
pub(super) fn lines(approval: &Approval, now: i64, ink: Ink) -> Vec<String> {
    let text = |text: &str| visible(&one_line(text, TEXT));
    let state = approval_state(approval.state());
    let state = match approval.state() {
        ApprovalState::Approved => ink.good(state),
        ApprovalState::Pending => ink.warn(state),
        _ => ink.bad(state),
    };
    let mut lines = vec![
        format!("{state}  {}", text(&approval.name)),
        format!("tool        {}", ink.name(&text(approval.tool.trim_start_matches("tools/")))),
        "arguments".to_owned(),
    ];
    lines.extend(indented(&approval.arguments_json).lines().map(|line| format!("  {line}")));
    if !approval.reason.is_empty() {
        lines.push(format!("reason      {}", text(&approval.reason)));
    }
    if approval.in_doubt {
        let warning = "the call was issued and may have taken effect; approve: issue it again with the same key; deny: the \
                       model is told that nobody knows, and your comment";
        lines.push(format!("in doubt    {}: {warning}", ink.bad("OUTCOME_UNKNOWN")));
    }
    if approval.tainted {
        let warning =
            "content that nobody vouches for influenced these arguments: read them as if a stranger wrote them";
        lines.push(format!("{}     {warning}", ink.bad("TAINTED")));
    } else {
        lines.push("tainted     no".to_owned());
    }
    let group = if approval.group.is_empty() {
        "anybody but the requester".to_owned()
    } else {
        format!("group {}", text(&approval.group))
    };
    lines.push(format!("decides     {group}; {} of {} have approved", approved(approval), approval.needed));
    lines.extend(approval.decisions.iter().map(|decision| decided(decision, ink)));
    lines.push(format!("call        {}", text(&approval.call_id)));
    lines.push(format!("digest      {}", text(&approval.call_digest)));
    if let Some(asked) = &approval.create_time {
        lines.push(format!("asked       {}", timestamp(asked)));
    }
    if let Some(expires) = &approval.expire_time {
        let left = match expires_in(approval, now).as_str() {
            "-" => String::new(),
            "lapsed" => "  (lapsed)".to_owned(),
            left => format!("  (in {left})"),
        };
        lines.push(format!("expires     {}{left}", timestamp(expires)));
    }
    lines
}

fn decided(decision: &ApprovalDecision, ink: Ink) -> String {
    let what = approval_state(decision.resolution()).to_lowercase();
    let what = if decision.resolution() == ApprovalState::Approved { ink.good(&what) } else { ink.bad(&what) };
    let time = decision.time.as_ref().map(|time| format!(" at {}", timestamp(time))).unwrap_or_default();
    let why = match decision.comment.as_str() {
        "" => String::new(),
        comment => format!(": {}", visible(&one_line(comment, TEXT))),
    };
    format!("  {what} by {}{time}{why}", visible(&one_line(&decision.principal, TEXT)))
}

/// The approval as JSON. The arguments are the very text that the digest is over.
pub(super) fn to_json(approval: &Approval) -> Value {
    let decision = |decision: &ApprovalDecision| {
        json!({
            "principal": decision.principal,
            "resolution": approval_state(decision.resolution()),
            "comment": decision.comment,
            "time": decision.time.as_ref().map(timestamp),
        })
    };
    json!({
        "name": approval.name,
        "run": approval.name.split("/approvals/").next(),
        "state": approval_state(approval.state()),
        "call_id": approval.call_id,
        "tool": approval.tool,
        "arguments_json": approval.arguments_json,
        "call_digest": approval.call_digest,
        "reason": approval.reason,
        "tainted": approval.tainted,
        "in_doubt": approval.in_doubt,
        "group": approval.group,
        "needed": approval.needed,
        "approved": approved(approval),
        "decisions": approval.decisions.iter().map(decision).collect::<Vec<_>>(),
        "create_time": approval.create_time.as_ref().map(timestamp),
        "expire_time": approval.expire_time.as_ref().map(timestamp),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Approval {
        Approval {
            name: "sessions/s/runs/r/approvals/3-0".into(),
            state: ApprovalState::Pending.into(),
            tool: "tools/mail.send".into(),
            arguments_json: r#"{"to": "a\u202e", "n": 1.0}"#.into(),
            call_digest: "sha256:ab".into(),
            reason: "Mail leaves\nthe house.".into(),
            tainted: true,
            group: "office".into(),
            needed: 2,
            decisions: vec![ApprovalDecision {
                principal: "user:bob".into(),
                resolution: ApprovalState::Approved.into(),
                comment: "ok\x1b[2J".into(),
                time: None,
            }],
            expire_time: Some(prost_types::Timestamp { seconds: 1_060, nanos: 0 }),
            ..Approval::default()
        }
    }

    #[test]
    fn people_see_the_whole_call() {
        let text = lines(&asked(), 1_000, Ink(false)).join("\n");
        for part in [
            "PENDING  sessions/s/runs/r/approvals/3-0",
            "tool        mail.send",
            "    \"to\": \"a\\u202e\",\n    \"n\": 1.0",
            "Mail leaves the house.",
            "TAINTED",
            "group office; 1 of 2 have approved",
            "approved by user:bob: ok\u{fffd}[2J",
            "sha256:ab",
            "(in 1m)",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let late = lines(&asked(), 1_060, Ink(false)).join("\n");
        assert!(late.contains("(lapsed)"), "{late}");
        let trusted = lines(&Approval { tainted: false, ..asked() }, 1_000, Ink(false)).join("\n");
        assert!(!trusted.contains("TAINTED") && trusted.contains("tainted     no"), "{trusted}");
        assert!(!trusted.contains("OUTCOME_UNKNOWN"), "{trusted}");
        let doubtful = lines(&Approval { in_doubt: true, ..asked() }, 1_000, Ink(false)).join("\n");
        assert!(doubtful.contains("in doubt    OUTCOME_UNKNOWN: the call was issued"), "{doubtful}");
    }

    #[test]
    fn json_has_the_arguments_byte_for_byte() {
        let approval = asked();
        let json = to_json(&approval);
        assert_eq!(json["arguments_json"].as_str(), Some(approval.arguments_json.as_str()));
        assert_eq!((json["approved"].as_u64(), json["needed"].as_i64()), (Some(1), Some(2)));
        assert_eq!((json["run"].as_str(), json["state"].as_str()), (Some("sessions/s/runs/r"), Some("PENDING")));
    }
}

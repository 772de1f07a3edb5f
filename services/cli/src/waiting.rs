//! What a run waits for, and what to do about it.

use std::time::Duration;

use mar_proto::session::event_leaf::Body;
use mar_proto::session::{
    ApprovalDecided, ApprovalRequested, ApprovalState, CallHandedOver, CommitDelayed, EventContent, HeldCall, Run,
    RunClaimed, RunResumed, RunState, RunWaiting, WaitReason,
};
use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use crate::doubt;
use crate::out::{Ink, one_line};
use crate::progress::describe::{name, state, tool_name};
use crate::table::span;

/// The most of a comment or a dependency that a line shows.
const SHOWN: usize = 160;

/// `approved`.
pub fn approval_state(state: ApprovalState) -> &'static str {
    state.as_str_name().trim_start_matches("APPROVAL_STATE_")
}

/// Who decides, where a policy names no group.
pub fn group_text(group: &str) -> String {
    if group.is_empty() { "anybody else".to_owned() } else { format!("group {}", one_line(group, 60)) }
}

/// `WAITING for approval`, `RUNNING, pausing`: the state with what there is to know about it.
pub fn state_text(run: &Run) -> String {
    let text = state(run.state());
    match run.wait_reason() {
        _ if run.state() != RunState::Waiting => {
            if run.pausing {
                format!("{text}, pausing")
            } else {
                text
            }
        }
        WaitReason::Paused => format!("{text}, paused"),
        WaitReason::Unspecified => text,
        reason => format!("{text} for {}", what(reason)),
    }
}

fn what(reason: WaitReason) -> String {
    name(reason.as_str_name(), "WAIT_REASON_")
}

/// What lets an open run go on: a line for each call that is held, and one for a pause.
pub fn hints(run: &Run, ink: Ink) -> Vec<String> {
    let held = |call: &HeldCall| match call.approval.rsplit_once('/') {
        Some((_, id)) => format!(
            "{} for approval {id} of {}{}: mar approvals show {}",
            ink.warn("waits"),
            tool_name(&call.tool),
            if call.in_doubt { format!(", {}", ink.bad("OUTCOME_UNKNOWN")) } else { String::new() },
            call.approval
        ),
        None => {
            let arguments = one_line(&call.arguments_json, SHOWN);
            let held =
                CallHandedOver { call_id: call.call_id.clone(), reason: call.wait_reason, ..CallHandedOver::default() };
            format!("{} {arguments} {}", tool_name(&call.tool), handed(&held, &run.name, ink))
        }
    };
    let mut lines: Vec<_> = run.held_calls.iter().map(held).collect();
    if run.wait_reason() == WaitReason::Paused {
        lines.push(paused(&run.name, ink));
    } else if run.pausing {
        lines.push(format!("{} when nothing of it is in flight; mar runs resume {}", ink.warn("pauses"), run.name));
    }
    lines
}

/// A call that is in the caller's hands.
pub fn handed(held: &CallHandedOver, run: &str, ink: Ink) -> String {
    let place = held.call_id.split_once('/').map_or(held.call_id.as_str(), |(_, place)| place);
    match held.reason() {
        WaitReason::Input => format!("{} for an answer: mar runs answer {run} TEXT", ink.warn("waits")),
        _ => format!("{} for its result: mar runs submit {run} {place} --result FILE", ink.warn("waits")),
    }
}

fn paused(run: &str, ink: Ink) -> String {
    format!("{} mar runs resume {run}", ink.warn("paused:"))
}

/// The event of a run that was parked.
pub fn parked(waiting: &RunWaiting, run: &str, ink: Ink) -> String {
    match waiting.reason() {
        WaitReason::Paused => paused(run, ink),
        WaitReason::Dependency => format!("{} for {}", ink.warn("waits"), one_line(&waiting.dependency, SHOWN)),
        WaitReason::Approval => format!("{} for people to decide", ink.warn("waits")),
        other => format!("{} for {}", ink.warn("waits"), what(other)),
    }
}

/// The event of a run that goes on, at a time.
pub fn resumed(resumed: &RunResumed, at: Option<Timestamp>) -> String {
    match between(resumed.since, at) {
        Some(waited) => format!("goes on after {}", span(waited)),
        None => "goes on".to_owned(),
    }
}

/// The event of a run that another replica goes on with, at a time.
pub fn claimed(claimed: &RunClaimed, at: Option<Timestamp>) -> String {
    let still = between(claimed.unattended_since, at).map(|still| format!(", stood still {}", span(still)));
    format!("taken over by another replica, epoch {}{}", claimed.epoch, still.unwrap_or_default())
}

/// From one time to another; none where one is missing or they are the wrong way round.
fn between(since: Option<Timestamp>, until: Option<Timestamp>) -> Option<Duration> {
    let nanos = |stamp: Timestamp| i128::from(stamp.seconds) * 1_000_000_000 + i128::from(stamp.nanos);
    let nanos = u64::try_from(nanos(until?) - nanos(since?)).ok()?;
    Some(Duration::from_nanos(nanos))
}

/// The event of a commit that waited for the store.
pub fn delayed(delayed: &CommitDelayed, ink: Ink) -> String {
    let took = between(delayed.since, delayed.until).unwrap_or_default();
    format!("{} {} for {}, which was away", ink.warn("stood still"), span(took), one_line(&delayed.dependency, SHOWN))
}

/// The event of a call that people have to decide on.
pub fn asked(asked: &ApprovalRequested, run: &str, ink: Ink) -> String {
    let needed = if asked.needed > 1 { format!(" ({} approvals)", asked.needed) } else { String::new() };
    format!(
        "{} for approval {} of {}{needed}: mar approvals show {run}/approvals/{}",
        ink.warn("waits"),
        asked.approval,
        group_text(&asked.group),
        asked.approval
    )
}

/// The event of a decision: who, what, and where the approval stands after it.
pub fn decided(decided: &ApprovalDecided, content: &EventContent, ink: Ink) -> String {
    let by = match content.principal.as_str() {
        "" => String::new(),
        principal => format!(" by {}", one_line(principal, 80)),
    };
    let decision = approval_state(decided.decision()).to_lowercase();
    let decision = if decided.decision() == ApprovalState::Approved { ink.good(&decision) } else { ink.bad(&decision) };
    let rest = match decided.state() {
        ApprovalState::Pending => ", waits for more",
        _ => "",
    };
    let why = match content.comment.as_str() {
        "" => String::new(),
        comment => format!(": {}", one_line(comment, SHOWN)),
    };
    format!("approval {} {decision}{by}{rest}{why}", decided.approval)
}

/// The live line while people decide.
pub fn doing(asked: &ApprovalRequested) -> String {
    format!("waiting for approval {} of {}", asked.approval, group_text(&asked.group))
}

/// The live line of a run that was parked for another reason.
pub fn doing_nothing(waiting: &RunWaiting) -> String {
    match waiting.reason() {
        WaitReason::Paused => "paused".to_owned(),
        WaitReason::Unspecified => "waiting".to_owned(),
        other => format!("waiting for {}", what(other)),
    }
}

/// `APPROVAL`, or none while the run does not wait.
pub fn reason(run: &Run) -> Option<&'static str> {
    Some(run.wait_reason()).filter(|reason| *reason != WaitReason::Unspecified).map(constant)
}

fn constant(reason: WaitReason) -> &'static str {
    reason.as_str_name().trim_start_matches("WAIT_REASON_")
}

/// A call that waits for somebody, as JSON.
pub fn held_json(call: &HeldCall) -> Value {
    json!({
        "call_id": call.call_id,
        "tool": call.tool,
        "arguments_json": call.arguments_json,
        "wait_reason": constant(call.wait_reason()),
        "approval": Some(&call.approval).filter(|name| !name.is_empty()),
        "in_doubt": call.in_doubt,
    })
}

/// What the events of an approval have beside those of all events.
fn approval_json(body: &Body, content: &EventContent, run: &str) -> Value {
    match body {
        Body::ApprovalRequested(asked) => json!({
            "approval": format!("{run}/approvals/{}", asked.approval),
            "call_id": asked.call_id,
            "call_digest": content.approval.as_ref().map(|question| &question.call_digest),
            "group": asked.group,
            "needed": asked.needed,
            "expire_time": asked.expire_time.as_ref().map(crate::report::timestamp),
        }),
        Body::ApprovalDecided(decided) => json!({
            "approval": format!("{run}/approvals/{}", decided.approval),
            "decision": approval_state(decided.decision()),
            "approval_state": approval_state(decided.state()),
            "principal": Some(&content.principal).filter(|name| !name.is_empty()),
            "comment": content.comment,
        }),
        _ => Value::Null,
    }
}

/// What the events of waiting have beside those of all events; nothing for others.
pub fn event_fields(body: &Body, content: &EventContent, run: &str) -> Map<String, Value> {
    let fields = match body {
        Body::RunWaiting(waiting) => json!({
            "wait_reason": constant(waiting.reason()),
            "dependency": Some(&waiting.dependency).filter(|name| !name.is_empty()),
        }),
        Body::RunResumed(resumed) => json!({
            "wait_reason": constant(resumed.reason()),
            "since": resumed.since.as_ref().map(crate::report::timestamp),
        }),
        Body::RunClaimed(claimed) => json!({
            "owner": claimed.owner,
            "epoch": claimed.epoch,
            "unattended_since": claimed.unattended_since.as_ref().map(crate::report::timestamp),
        }),
        Body::CommitDelayed(delayed) => json!({
            "dependency": delayed.dependency,
            "since": delayed.since.as_ref().map(crate::report::timestamp),
            "until": delayed.until.as_ref().map(crate::report::timestamp),
            "delay_ms": between(delayed.since, delayed.until).map(|took| took.as_millis()),
            "failures": delayed.failures,
        }),
        Body::PauseRequested(_) => json!({ "principal": content.principal }),
        Body::ApprovalRequested(_) | Body::ApprovalDecided(_) => approval_json(body, content, run),
        Body::CallHandedOver(handed) => {
            json!({ "call_id": handed.call_id, "wait_reason": constant(handed.reason()) })
        }
        Body::DelegationIntent(intent) => {
            let session = run.split_once("/runs/").map_or(run, |(session, _)| session);
            let children = intent.children.iter().map(|child| format!("{session}/runs/{}", child.run));
            json!({
                "call_id": intent.call_id,
                "mode": intent.mode().as_str_name().trim_start_matches("DELEGATION_MODE_"),
                "children": children.collect::<Vec<_>>(),
            })
        }
        Body::ChildEnded(ended) => {
            json!({ "child": ended.run, "child_state": ended.state().as_str_name().trim_start_matches("RUN_STATE_") })
        }
        Body::CallDoubted(_) | Body::CallProbed(_) => return doubt::event_fields(body, content),
        _ => return Map::new(),
    };
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INK: Ink = Ink(false);

    #[test]
    fn a_question_says_how_to_look_at_it() {
        let question = ApprovalRequested {
            approval: "3-0".into(),
            group: "office".into(),
            needed: 1,
            ..ApprovalRequested::default()
        };
        let text = asked(&question, "sessions/s/runs/r", INK);
        assert_eq!(text, "waits for approval 3-0 of group office: mar approvals show sessions/s/runs/r/approvals/3-0");
        let anybody = ApprovalRequested { group: String::new(), needed: 2, ..question };
        assert!(asked(&anybody, "sessions/s/runs/r", INK).contains("of anybody else (2 approvals): mar"));
    }

    #[test]
    fn a_pause_says_how_to_go_on() {
        let parked = |reason: WaitReason| {
            super::parked(
                &RunWaiting { reason: reason.into(), dependency: "router".into(), ..Default::default() },
                "sessions/s/runs/r",
                INK,
            )
        };
        assert_eq!(parked(WaitReason::Paused), "paused: mar runs resume sessions/s/runs/r");
        assert_eq!(parked(WaitReason::Dependency), "waits for router");
        assert_eq!(parked(WaitReason::ToolResult), "waits for tool result");
    }

    #[test]
    fn a_run_that_stood_still_says_for_how_long() {
        let stamp = |seconds, nanos| Some(Timestamp { seconds, nanos });
        let delayed = CommitDelayed {
            since: stamp(10, 900_000_000),
            until: stamp(14, 100_000_000),
            dependency: "session store".into(),
            failures: 6,
        };
        assert_eq!(super::delayed(&delayed, INK), "stood still 3.2s for session store, which was away");
        let claim = |unattended_since| {
            let claim = RunClaimed { epoch: 2, unattended_since, ..RunClaimed::default() };
            super::claimed(&claim, stamp(13, 500_000_000))
        };
        assert_eq!(claim(stamp(10, 0)), "taken over by another replica, epoch 2, stood still 3.5s");
        assert_eq!(claim(None), "taken over by another replica, epoch 2");
        let goes_on = |since| super::resumed(&RunResumed { since, ..RunResumed::default() }, stamp(75, 0));
        assert_eq!([goes_on(stamp(10, 0)), goes_on(None)], ["goes on after 1m 5s", "goes on"]);
        let fields = event_fields(&Body::CommitDelayed(delayed), &EventContent::default(), "sessions/s/runs/r");
        assert_eq!((&fields["delay_ms"], &fields["dependency"]), (&json!(3_200), &json!("session store")));
    }

    #[test]
    fn the_view_of_a_run_tells_every_hold() {
        let mut run = Run { name: "sessions/s/runs/r".into(), ..Run::default() };
        run.set_state(RunState::Running);
        assert!(hints(&run, INK).is_empty());
        run.pausing = true;
        assert_eq!(state_text(&run), "RUNNING, pausing");
        assert!(hints(&run, INK)[0].contains("mar runs resume sessions/s/runs/r"));
        run.pausing = false;
        run.set_state(RunState::Waiting);
        run.set_wait_reason(WaitReason::Approval);
        let approval = "sessions/s/runs/r/approvals/3-0".to_owned();
        run.held_calls = vec![HeldCall { tool: "tools/mail.send".into(), approval, ..HeldCall::default() }];
        assert_eq!(state_text(&run), "WAITING for approval");
        assert_eq!(
            hints(&run, INK),
            ["waits for approval 3-0 of mail.send: mar approvals show sessions/s/runs/r/approvals/3-0"]
        );
        run.held_calls[0].in_doubt = true;
        assert!(hints(&run, INK)[0].contains("of mail.send, OUTCOME_UNKNOWN: mar approvals show"));
        run.set_wait_reason(WaitReason::Paused);
        assert_eq!((state_text(&run).as_str(), hints(&run, INK).len()), ("WAITING, paused", 2));
    }

    #[test]
    fn a_call_of_the_callers_says_how_to_give_its_result() {
        let call = HeldCall {
            call_id: "r/3/0".into(),
            tool: "tools/caller.open".into(),
            arguments_json: r#"{"path":"a.rs"}"#.into(),
            wait_reason: WaitReason::ToolResult.into(),
            ..HeldCall::default()
        };
        let asks = HeldCall {
            tool: "tools/caller.ask".into(),
            arguments_json: "{}".into(),
            wait_reason: WaitReason::Input.into(),
            ..call.clone()
        };
        let run = Run { name: "sessions/s/runs/r".into(), held_calls: vec![call, asks], ..Run::default() };
        assert_eq!(
            hints(&run, INK),
            [
                r#"caller.open {"path":"a.rs"} waits for its result: mar runs submit sessions/s/runs/r 3/0 --result FILE"#,
                "caller.ask {} waits for an answer: mar runs answer sessions/s/runs/r TEXT",
            ]
        );
    }

    #[test]
    fn a_decision_says_whose_it_is() {
        let mut event = ApprovalDecided { approval: "3-0".into(), ..ApprovalDecided::default() };
        event.set_decision(ApprovalState::Approved);
        event.set_state(ApprovalState::Pending);
        let content = EventContent { principal: "user:bob".into(), comment: "fine".into(), ..EventContent::default() };
        assert_eq!(decided(&event, &content, INK), "approval 3-0 approved by user:bob, waits for more: fine");
        event.set_decision(ApprovalState::Expired);
        event.set_state(ApprovalState::Expired);
        assert_eq!(decided(&event, &EventContent::default(), INK), "approval 3-0 expired");
    }
}

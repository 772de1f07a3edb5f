//! What a hook tells: one thing that happened, by ids, kinds, states and reasons. Never a payload.

use bytes::Bytes;
use mar_proto::session::{RunState, SliceGranted, ToolOutcome, WaitReason, event_leaf::Body};
use mar_proto::types::HaltReason;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::log;
use crate::sessions::name as session_name;
use crate::store::SessionLogRow;
use crate::store::session_log::kind;
use crate::view::{approval_name, run_name};

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NoticeKind {
    /// A session was started.
    #[serde(rename = "session.started")]
    SessionStarted,
    /// A session has ended and is sealed.
    #[serde(rename = "session.ended")]
    SessionEnded,
    /// The payloads of a session go, past retention.
    #[serde(rename = "session.pruned")]
    SessionPruned,
    /// Everything that a session holds goes.
    #[serde(rename = "session.erased")]
    SessionErased,
    /// A run is in another state.
    #[serde(rename = "run.state")]
    RunState,
    /// A call waits for a human decision.
    #[serde(rename = "approval.wanted")]
    ApprovalWanted,
    /// A budget has crossed a threshold.
    #[serde(rename = "budget.threshold")]
    BudgetThreshold,
    /// A policy denied a tool call.
    #[serde(rename = "policy.denied")]
    PolicyDenied,
}

/// One thing that happened, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// The same each time that it is sent: `{session}.log.{seq}` or `{run}.{seq}`.
    pub id: String,
    /// What happened.
    pub kind: NoticeKind,
    /// Isolation boundary.
    pub tenant: String,
    /// `sessions/{session}`
    pub session: String,
    /// `sessions/{session}/runs/{run}`, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Position in the run's log, or in the session's.
    pub seq: i64,
    /// When, RFC 3339; of what happened to a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The state that the session or run is in by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The call that was denied, or waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// `sessions/{session}/runs/{run}/approvals/{approval}`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// Who may decide; absent for anybody but the run's own principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// What an entry of a session's log tells. `before` are the entries before it.
pub fn of_entry(tenant: &str, session: Uuid, entry: &SessionLogRow, before: &[SessionLogRow]) -> Option<Notice> {
    let (what, state) = match entry.kind.as_str() {
        kind::STARTED => (NoticeKind::SessionStarted, "OPEN"),
        kind::ENDED => (NoticeKind::SessionEnded, "ENDED"),
        kind::PRUNED => (NoticeKind::SessionPruned, "ENDED"),
        kind::ERASED => (NoticeKind::SessionErased, "ENDED"),
        _ => return None,
    };
    let idle = what == NoticeKind::SessionEnded && before.iter().any(|entry| entry.kind == kind::EXPIRED);
    let reason = match what {
        NoticeKind::SessionEnded => Some(if idle { "IDLE" } else { "CALLER" }.to_owned()),
        _ => None,
    };
    Some(Notice {
        id: format!("{session}.log.{}", entry.seq),
        state: Some(state.to_owned()),
        reason,
        ..plain(what, tenant, session, entry.seq)
    })
}

/// What an event of a run tells; `None` for one that tells nothing, and for one that this version cannot read. `begun` says
/// whether the run has left PENDING for good by what came before, and then by this event.
pub fn of_event(tenant: &str, (session, run): (Uuid, Uuid), seq: i64, leaf: Bytes, begun: &mut bool) -> Option<Notice> {
    let leaf = log::leaf(run, leaf).ok()?;
    let body = leaf.body?;
    *begun |= matches!(body, Body::AgentSealed(_));
    let told = told((session, run), body, *begun)?;
    let time = leaf.time.and_then(|time| {
        let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        let time = time::OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
        time.format(&time::format_description::well_known::Rfc3339).ok()
    });
    Some(Notice {
        id: format!("{run}.{seq}"),
        run: Some(run_name(session, run)),
        time,
        state: told.state.map(|state| state.as_str_name().trim_start_matches("RUN_STATE_").to_owned()),
        reason: Some(told.reason).filter(|reason| !reason.is_empty()),
        call_id: told.call_id,
        approval: told.approval,
        group: Some(told.group).filter(|group| !group.is_empty()),
        ..plain(told.kind, tenant, session, seq)
    })
}

fn plain(kind: NoticeKind, tenant: &str, session: Uuid, seq: i64) -> Notice {
    Notice {
        id: String::new(),
        kind,
        tenant: tenant.to_owned(),
        session: session_name(session),
        run: None,
        seq,
        time: None,
        state: None,
        reason: None,
        call_id: None,
        approval: None,
        group: None,
    }
}

struct Told {
    kind: NoticeKind,
    state: Option<RunState>,
    reason: String,
    call_id: Option<String>,
    approval: Option<String>,
    group: String,
}

fn told((session, run): (Uuid, Uuid), body: Body, begun: bool) -> Option<Told> {
    let of = |kind, state, reason: &str| Told {
        kind,
        state,
        reason: reason.to_owned(),
        call_id: None,
        approval: None,
        group: String::new(),
    };
    let state = |state, reason: &str| Some(of(NoticeKind::RunState, Some(state), reason));
    // What has no agent yet is PENDING, also while it waits for a budget or a part that is down.
    let unless_pending = |state| if begun { state } else { RunState::Pending };
    match body {
        Body::RunAdmitted(_) => state(RunState::Pending, ""),
        Body::AgentSealed(_) => state(RunState::Running, ""),
        Body::RunWaiting(waiting) => state(unless_pending(RunState::Waiting), wait_name(waiting.reason())),
        // A pause that is taken back before the run could park has changed no state.
        Body::RunResumed(resumed) if resumed.since.is_some() => state(unless_pending(RunState::Running), ""),
        Body::RunEnded(ended) => {
            let failure = ended.failure.clone().unwrap_or_default().reason;
            let reason = if ended.state() == RunState::Halted { halt_name(ended.halt_reason()) } else { &failure };
            state(ended.state(), reason)
        }
        Body::ApprovalRequested(asked) => Some(Told {
            call_id: Some(asked.call_id),
            approval: Some(approval_name(session, run, &asked.approval)),
            group: asked.group,
            ..of(NoticeKind::ApprovalWanted, None, "")
        }),
        Body::ToolReturned(returned) if returned.outcome() == ToolOutcome::Denied => {
            let reason = returned.reason;
            Some(Told { call_id: Some(returned.call_id), ..of(NoticeKind::PolicyDenied, None, &reason) })
        }
        Body::SliceGranted(granted) if !granted.crossed.is_empty() => {
            Some(of(NoticeKind::BudgetThreshold, None, &crossed(&granted)))
        }
        _ => None,
    }
}

/// `SESSION_COST_80`, one for each threshold.
fn crossed(granted: &SliceGranted) -> String {
    let scope = granted.scope().as_str_name().trim_start_matches("BUDGET_SCOPE_");
    let names = granted.crossed.iter().map(|threshold| {
        let unit = threshold.unit().as_str_name().trim_start_matches("BUDGET_UNIT_");
        format!("{scope}_{unit}_{}", threshold.percent)
    });
    names.collect::<Vec<_>>().join(",")
}

fn wait_name(reason: WaitReason) -> &'static str {
    reason.as_str_name().trim_start_matches("WAIT_REASON_")
}

fn halt_name(reason: HaltReason) -> &'static str {
    reason.as_str_name().trim_start_matches("HALT_REASON_")
}

#[cfg(test)]
mod tests {
    use mar_proto::session::{
        AgentSealed, BudgetScope, BudgetThreshold, BudgetUnit, EventLeaf, RunAdmitted, RunResumed, RunWaiting,
    };
    use prost::Message as _;

    use super::*;

    fn told_of(bodies: Vec<Body>) -> Vec<Notice> {
        let (mut begun, nobody) = (false, (Uuid::nil(), Uuid::nil()));
        let leaf = |body| Bytes::from(EventLeaf { body: Some(body), ..EventLeaf::default() }.encode_to_vec());
        let mut next = |body| of_event("acme", nobody, 3, leaf(body), &mut begun);
        bodies.into_iter().filter_map(&mut next).collect()
    }

    fn granted(percents: &[i32]) -> Body {
        let at = |percent: &i32| BudgetThreshold { unit: BudgetUnit::Cost.into(), percent: *percent };
        let crossed = percents.iter().map(at).collect();
        Body::SliceGranted(SliceGranted { scope: BudgetScope::Tenant.into(), crossed, ..SliceGranted::default() })
    }

    fn waiting(reason: WaitReason) -> Body {
        Body::RunWaiting(RunWaiting { reason: reason.into(), ..RunWaiting::default() })
    }

    fn resumed(reason: WaitReason, since: Option<prost_types::Timestamp>) -> Body {
        Body::RunResumed(RunResumed { reason: reason.into(), since })
    }

    #[test]
    fn a_slice_tells_the_thresholds_that_it_reached() {
        assert_eq!(told_of(vec![granted(&[])]), []);
        let notices = told_of(vec![granted(&[50, 80])]);
        assert_eq!(notices[0].kind, NoticeKind::BudgetThreshold);
        assert_eq!(notices[0].reason.as_deref(), Some("TENANT_COST_50,TENANT_COST_80"));
    }

    #[test]
    fn states_are_told_as_the_run_has_them() {
        let since = Some(prost_types::Timestamp::default());
        let notices = told_of(vec![
            Body::RunAdmitted(RunAdmitted::default()),
            waiting(WaitReason::Budget),
            resumed(WaitReason::Budget, since),
            Body::AgentSealed(AgentSealed::default()),
            waiting(WaitReason::Approval),
            // Paused, and taken back, while it waits for something else.
            resumed(WaitReason::Paused, None),
            resumed(WaitReason::Approval, since),
        ]);
        let states: Vec<_> = notices
            .iter()
            .map(|one| (one.state.as_deref().unwrap_or_default(), one.reason.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(
            states,
            [
                ("PENDING", ""),
                ("PENDING", "BUDGET"),
                ("PENDING", ""),
                ("RUNNING", ""),
                ("WAITING", "APPROVAL"),
                ("RUNNING", "")
            ]
        );
    }
}

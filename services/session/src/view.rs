//! A run as callers see it.

use mar_proto::session::{
    ApprovalDecision, ApprovalState, AttemptStarted, ForkOrigin, HeldCall, Run, RunSeal, RunState, WaitReason,
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::log::stamp;
use crate::run::{Approval, Call, CallState, Decided, Ending, Phase, State};

/// `sessions/{session}/runs/{run}`
pub fn run_name(session: Uuid, run: Uuid) -> String {
    format!("sessions/{session}/runs/{run}")
}

/// What callers are told of a phase.
pub fn run_state(phase: Phase) -> RunState {
    match phase {
        Phase::Pending(_) => RunState::Pending,
        Phase::Running => RunState::Running,
        Phase::Waiting(_) => RunState::Waiting,
        Phase::Ended(state) => state,
    }
}

/// The attempt that is open.
pub fn open_attempt(state: &State) -> Option<AttemptStarted> {
    state.generation.as_ref().map(|generation| AttemptStarted {
        step: generation.step,
        epoch: state.epoch,
        attempt: generation.attempt,
        model: String::new(),
    })
}

/// The run as its state says, with the seal where it has one.
pub fn run(state: &State, now: OffsetDateTime, seal: Option<RunSeal>) -> Run {
    let mut run = Run {
        name: run_name(state.session, state.run),
        state: run_state(state.phase).into(),
        task: Some((*state.task).clone()),
        limits: Some(state.limits),
        totals: Some(state.totals(if state.ended() { state.changed_at } else { now })),
        descriptor_hash: descriptor_hash(state),
        seal,
        epoch: state.epoch,
        next_seq: state.next_seq,
        create_time: Some(stamp(state.admitted_at)),
        update_time: Some(stamp(state.changed_at)),
        end_time: state.ended().then(|| stamp(state.changed_at)),
        expire_time: Some(stamp(state.expires_at)),
        ..Run::default()
    };
    if let Some(parent) = &state.parent {
        run.parent = run_name(state.session, parent.run);
        run.depth = parent.depth;
    }
    if let Some(fork) = &state.fork {
        run.parent = run_name(state.session, fork.origin);
        run.fork = Some(ForkOrigin {
            run: fork.origin.to_string(),
            through_seq: fork.through_seq,
            allow_effects: fork.allow_effects,
            own_task: fork.own_task,
        });
    }
    run.history_summary = state.history.origin.as_deref().cloned();
    run.children = state.children.iter().map(|child| run_name(state.session, *child)).collect();
    if let Some(reason) = state.waits_for() {
        run.wait_reason = reason.into();
    }
    run.pausing = state.paused && state.phase != Phase::Waiting(WaitReason::Paused);
    run.held_calls = state.held_calls().filter_map(|call| held_call(state, call)).collect();
    match &state.ending {
        None => {}
        Some(Ending::Answered(answer)) => run.answer = Some((**answer).clone()),
        Some(Ending::Halted(reason)) => run.halt_reason = (*reason).into(),
        Some(Ending::Failed(failure)) => run.failure = Some(failure.clone()),
    }
    run
}

/// The sealed agent's hash; empty where none is sealed.
pub fn descriptor_hash(state: &State) -> String {
    let sealed = state.agent.as_ref().and_then(|agent| agent.descriptor.as_ref());
    sealed.map(|sealed| sealed.hash.clone()).unwrap_or_default()
}

fn held_call(state: &State, call: &Call) -> Option<HeldCall> {
    let reason = match call.state {
        CallState::Asking { .. } => WaitReason::Approval,
        CallState::Handed { reason } if reason != WaitReason::ChildRun => reason,
        _ => return None,
    };
    let asked = call.asked().filter(|_| reason == WaitReason::Approval);
    Some(HeldCall {
        call_id: call.call_id.clone(),
        tool: call.tool.clone(),
        arguments_json: call.arguments_json.clone(),
        wait_reason: reason.into(),
        in_doubt: asked.is_some() && call.question.is_some(),
        approval: asked.map(|id| approval_name(state.session, state.run, id)).unwrap_or_default(),
    })
}

/// `sessions/{session}/runs/{run}/approvals/{approval}`
pub fn approval_name(session: Uuid, run: Uuid, approval: &str) -> String {
    format!("{}/approvals/{approval}", run_name(session, run))
}

/// An approval as callers see it.
pub fn approval(state: &State, approval: &Approval) -> mar_proto::session::Approval {
    let decision = |decided: &Decided| ApprovalDecision {
        principal: decided.principal.clone(),
        resolution: if decided.approved { ApprovalState::Approved } else { ApprovalState::Denied }.into(),
        comment: decided.comment.clone(),
        time: Some(stamp(decided.at)),
    };
    mar_proto::session::Approval {
        name: approval_name(state.session, state.run, &approval.id),
        state: approval.state.into(),
        call_id: approval.call_id.clone(),
        tool: approval.tool.clone(),
        arguments_json: approval.arguments_json.clone(),
        call_digest: approval.digest.clone(),
        reason: approval.message.clone(),
        tainted: approval.tainted,
        group: approval.group.clone(),
        needed: approval.needed,
        decisions: approval.decisions.iter().map(decision).collect(),
        create_time: Some(stamp(approval.asked_at)),
        expire_time: Some(stamp(approval.expires_at)),
        in_doubt: approval.in_doubt,
    }
}

/// The run without its task's input, as lists and stored summaries have it.
pub fn summary(mut run: Run) -> Run {
    if let Some(task) = &mut run.task {
        task.input.clear();
        task.parameters.clear();
        task.caller_tools.clear();
    }
    for call in &mut run.held_calls {
        call.arguments_json.clear();
    }
    run
}

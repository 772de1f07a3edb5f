//! Why a request gets no answer.

use mar_proto::session::{ApprovalState, RunState};
use mar_proto::types::ErrorReason;
use mar_runtime::status::{DEFAULT_RETRY, Fault, Resource, internal};
use mar_runtime::violations::Violations;
use tonic::{Code, Status};

use crate::store;

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks rules: all of them.
    #[error("{0}")]
    Invalid(Violations),
    /// There is no such thing, or it is another tenant's.
    #[error("{kind} {name} does not exist")]
    NotFound {
        /// What it is.
        kind: Resource,
        /// As it was asked for.
        name: String,
    },
    /// The `request_id` was used with another body.
    #[error("request_id was used before with another body")]
    RequestIdReused,
    /// Another root run of the session is open.
    #[error("run {0} of the session is still open")]
    SessionBusy(String),
    /// The session has ended, or is ending.
    #[error("session {0} has ended")]
    SessionEnded(String),
    /// The session is neither erased nor pruned.
    #[error("session {session} {}", why.clause())]
    SessionKept {
        /// Its name.
        session: String,
        /// Why it is kept.
        why: Kept,
    },
    /// The session's blobs take as many bytes as they may.
    #[error("{session} has {used} bytes of blobs, and may have {most}")]
    SessionFull {
        /// Its name.
        session: String,
        /// Bytes of its blobs, those under way included.
        used: i64,
        /// How many they may be.
        most: i64,
    },
    /// An upload took longer than it may.
    #[error("the upload took longer than an hour")]
    UploadOverdue,
    /// The payloads of a run are gone.
    #[error("the payloads of run {0} are gone: they were erased, or pruned past retention")]
    PayloadsGone(String),
    /// The session has changed since it was read.
    #[error("the session has changed since its etag was read")]
    EtagMismatch,
    /// The cursor lies beyond the end of the log.
    #[error("from_seq {from_seq} lies beyond the next event {next_seq}")]
    CursorOutOfRange {
        /// What was asked for.
        from_seq: i64,
        /// Where the log ends.
        next_seq: i64,
    },
    /// The run's log is not the one that the caller has seen, or what was seen is another run's.
    #[error(
        "the log of {name} ends or goes on at event {next_seq} in another way than was seen: its store has lost events, or \
         the cursor is of another run"
    )]
    LogTailLost {
        /// `sessions/{session}/runs/{run}`
        name: String,
        /// The first event that the caller has not seen, or where the log ends.
        next_seq: i64,
    },
    /// The run is in a state that does not allow this.
    #[error("run {name} is {}", state.as_str_name().trim_start_matches("RUN_STATE_"))]
    RunState {
        /// `sessions/{session}/runs/{run}`
        name: String,
        /// Its state.
        state: RunState,
    },
    /// The caller may not decide on this approval.
    #[error("{why}")]
    ApprovalNotAllowed {
        /// One clause.
        why: &'static str,
        /// Who may; empty for anybody but the run's own principal.
        group: String,
    },
    /// The approval cannot be decided like this.
    #[error("approval cannot be decided: {why}")]
    ApprovalState {
        /// Its name.
        name: String,
        /// Its state.
        state: ApprovalState,
        /// One clause.
        why: &'static str,
    },
    /// The call is not in the caller's hands.
    #[error("call {call_id} does not wait for this: {why}")]
    CallState {
        /// `{run}/{step}/{index}`
        call_id: String,
        /// One clause.
        why: &'static str,
    },
    /// A hook did not take a notice.
    #[error("hook {hook} did not take the notice: {why}")]
    HookUnavailable {
        /// Its name.
        hook: String,
        /// One clause, without what the hook said.
        why: String,
    },
    /// The service stops.
    #[error("the service is draining")]
    Draining,
    /// The store cannot be reached, or what it holds cannot be read.
    #[error("session store failed")]
    Store(#[from] store::Error),
    /// Declared, and not served by this version.
    #[error("{0} is not served by this version")]
    NotImplemented(&'static str),
}

/// Why a session is neither erased nor pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It has not ended.
    Open,
    /// Its tenant is under legal hold.
    LegalHold,
}

impl Kept {
    const fn clause(self) -> &'static str {
        match self {
            Self::Open => "has not ended",
            Self::LegalHold => "is under legal hold",
        }
    }
}

impl From<Violations> for Error {
    fn from(found: Violations) -> Self {
        Self::Invalid(found)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Invalid(found) => found.into(),
            Error::NotFound { kind, name } => Fault::not_found(kind, &name).into(),
            Error::RequestIdReused => Fault::new(Code::AlreadyExists, ErrorReason::RequestIdReused, text).into(),
            Error::SessionBusy(run) => Fault::new(Code::FailedPrecondition, ErrorReason::SessionBusy, text)
                .resource(Resource::Run, run.clone())
                .metadata("run", run)
                .into(),
            Error::SessionEnded(session) => Fault::new(Code::FailedPrecondition, ErrorReason::SessionEnded, text)
                .resource(Resource::Session, session)
                .into(),
            Error::SessionKept { session, why } => {
                let reason = match why {
                    Kept::Open => ErrorReason::SessionOpen,
                    Kept::LegalHold => ErrorReason::LegalHold,
                };
                Fault::new(Code::FailedPrecondition, reason, text).resource(Resource::Session, session).into()
            }
            Error::SessionFull { session, .. } => {
                Fault::new(Code::ResourceExhausted, ErrorReason::SessionFull, text.clone()).quota(session, text).into()
            }
            Error::UploadOverdue => Fault::new(Code::DeadlineExceeded, ErrorReason::DeadlineExceeded, text).into(),
            Error::PayloadsGone(run) => Fault::new(Code::FailedPrecondition, ErrorReason::PayloadsGone, text)
                .resource(Resource::Run, run)
                .into(),
            Error::EtagMismatch => Fault::new(Code::Aborted, ErrorReason::EtagMismatch, text).into(),
            Error::CursorOutOfRange { next_seq, .. } => {
                Fault::new(Code::OutOfRange, ErrorReason::CursorOutOfRange, text)
                    .metadata("next_seq", next_seq.to_string())
                    .into()
            }
            Error::LogTailLost { name, next_seq } => Fault::new(Code::DataLoss, ErrorReason::LogTailLost, text)
                .resource(Resource::Run, name)
                .metadata("next_seq", next_seq.to_string())
                .into(),
            Error::RunState { name, state } => Fault::new(Code::FailedPrecondition, ErrorReason::RunState, text)
                .resource(Resource::Run, name)
                .metadata("state", state.as_str_name().trim_start_matches("RUN_STATE_"))
                .into(),
            Error::ApprovalNotAllowed { group, .. } => {
                Fault::new(Code::PermissionDenied, ErrorReason::ApprovalNotAllowed, text)
                    .metadata("group", group)
                    .into()
            }
            Error::ApprovalState { name, state, .. } => {
                Fault::new(Code::FailedPrecondition, ErrorReason::ApprovalState, text)
                    .resource(Resource::Approval, name)
                    .metadata("state", state.as_str_name().trim_start_matches("APPROVAL_STATE_"))
                    .into()
            }
            Error::CallState { call_id, .. } => {
                Fault::new(Code::FailedPrecondition, ErrorReason::CallState, text).metadata("call_id", call_id).into()
            }
            Error::HookUnavailable { hook, .. } => {
                Fault::new(Code::Unavailable, ErrorReason::HookUnavailable, text).resource(Resource::Hook, hook).into()
            }
            Error::Draining => {
                Fault::new(Code::Unavailable, ErrorReason::Draining, text).retry_after(DEFAULT_RETRY).into()
            }
            Error::Store(source) if source.is_unavailable() => {
                tracing::warn!(error = %mar_runtime::status::chain(&source), "session store is unavailable");
                Fault::new(Code::Unavailable, ErrorReason::StoreUnavailable, "the session store cannot be reached")
                    .retry_after(DEFAULT_RETRY)
                    .into()
            }
            Error::Store(source) => internal(source),
            Error::NotImplemented(rpc) => Fault::not_implemented(rpc).into(),
        }
    }
}

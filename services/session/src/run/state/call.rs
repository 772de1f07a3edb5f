//! Tool calls of the step in hand.

use mar_proto::session::WaitReason;
use mar_proto::types::{Doubt, Executor, Probe, ToolDefinition, ToolResult};
use time::OffsetDateTime;
use uuid::Uuid;

use super::State;
use crate::run::delegation::Delegated;

/// A tool call of the current step.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// `{run}/{step}/{index}`
    pub call_id: String,
    /// The provider's id.
    pub provider_call_id: String,
    /// `tools/…`, or what the model wrote.
    pub tool: String,
    /// The tool as sealed; `None` where the model named none of the agent's.
    pub definition: Option<ToolDefinition>,
    /// Arguments as the model wrote them.
    pub arguments_json: String,
    /// Id of the human decision that a policy asked for.
    pub approval: Option<String>,
    /// Id of the human decision on its doubt, until it is issued again.
    pub question: Option<String>,
    /// The `seq` of the result that the log of the run's origin holds of it, which it is given.
    pub recorded: Option<i64>,
    /// When its last attempt was issued.
    pub issued_at: Option<OffsetDateTime>,
    /// How far it is.
    pub state: CallState,
}

impl Call {
    /// Whether the gateway only decides on it: the caller, or the runtime, makes it once it is handed over.
    pub fn is_made_elsewhere(&self) -> bool {
        self.definition.as_ref().is_some_and(|tool| tool.executor() != Executor::Unspecified)
    }

    /// What the operator declares about calls whose outcome nobody knows.
    pub fn doubt(&self) -> Option<&Doubt> {
        self.definition.as_ref()?.doubt.as_ref()
    }

    /// The key under which its tool knows it.
    pub fn idempotency_key(&self, run: Uuid) -> String {
        crate::run::idempotency_key(run, &self.call_id, &self.arguments_json)
    }

    /// What can be asked whether it took effect.
    pub fn probe(&self) -> Option<&Probe> {
        self.doubt()?.probe.as_ref()
    }

    /// Id of the human decision that it waits for, or waited for last.
    pub fn asked(&self) -> Option<&str> {
        self.question.as_deref().or(self.approval.as_deref())
    }
}

/// How far a call is.
#[derive(Debug, Clone, PartialEq)]
pub enum CallState {
    /// The turn asks for it; nothing is reserved.
    Wanted,
    /// Its intent is in the log: this attempt may have had its effect.
    Open {
        /// Session's number of the attempt.
        attempt: i64,
    },
    /// An attempt was issued, nobody knows whether it took effect, and its probe is being asked.
    Doubted {
        /// The attempt in doubt.
        attempt: i64,
    },
    /// It waits for a human's decision: on whether it is made, or, of a call in doubt, on whether it is issued again.
    Asking {
        /// The attempt that was asked about.
        attempt: i64,
    },
    /// It may go ahead.
    Approved {
        /// The attempt that was asked about.
        attempt: i64,
    },
    /// Child runs work on it.
    Delegated(Box<Delegated>),
    /// It is in the caller's hands, or, for CHILD_RUN, about to start child runs.
    Handed {
        /// What the run waits for.
        reason: WaitReason,
    },
    /// It is over.
    Returned(Box<ToolResult>),
}

impl State {
    /// Calls whose intent is in the log and whose result is not.
    pub fn open_calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| matches!(call.state, CallState::Open { .. }))
    }

    /// Calls whose probe is being asked.
    pub fn doubted_calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| matches!(call.state, CallState::Doubted { .. }))
    }

    /// Calls that a human or the caller holds, or that were just approved.
    pub fn held_calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| {
            matches!(call.state, CallState::Asking { .. } | CallState::Approved { .. } | CallState::Handed { .. })
        })
    }

    /// The tool of the agent that a turn names.
    pub fn tool(&self, name: &str) -> Option<&ToolDefinition> {
        self.agent.as_ref()?.tools.iter().find(|tool| tool.name == name)
    }
}

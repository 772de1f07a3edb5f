//! Turns that stopped before their end.

use mar_proto::session::FinishReason;

use super::state::Call;

/// What kept a turn from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The limit of its output.
    Length,
    /// The provider's own filter, which withheld the rest or all of it.
    Filter,
}

/// Why a call of a turn that was cut is not made: the reason, and what the model reads.
pub(super) type Unmade = (&'static str, &'static str);

const FILTERED: Unmade = (
    "TURN_FILTERED",
    "TURN_FILTERED: the provider's content filter cut off the turn that asks for this, so the call was not made: it may not be \
     what was meant. Ask for it again in other words, or go on without it",
);
const CUT_OFF: Unmade = (
    "CALL_CUT_OFF",
    "CALL_CUT_OFF: the turn was cut off at the limit of its output before this call had its arguments, so it was not made. Ask \
     for it again in fewer words",
);

impl Cut {
    /// What cut a turn that stopped for this reason; `None` where nothing did.
    pub(super) fn of(reason: FinishReason) -> Option<Self> {
        match reason {
            FinishReason::Length => Some(Self::Length),
            FinishReason::ContentFilter => Some(Self::Filter),
            FinishReason::Unspecified | FinishReason::Stop | FinishReason::ToolCalls => None,
        }
    }

    /// What is wrong with an answer that was cut, as the model is told. `limit` is in tokens.
    pub(super) fn problem(self, limit: i64) -> String {
        match self {
            Self::Length => format!("it was cut off at the limit of {limit} tokens; answer in fewer words"),
            Self::Filter => {
                "the provider's content filter cut it off; answer in words that the filter lets through, or say \
                             that you cannot answer"
                    .to_owned()
            }
        }
    }

    /// Why a call of a turn that was cut is not made; `None` for one that is. Arguments that break off are no JSON and refused
    /// as such, but none at all are those of a tool without parameters; only the last call of a turn can lack them. What a
    /// filter let through is no whole either way, and its provider did not want the turn: nothing of it is done.
    pub(super) fn unmade(self, call: &Call, last: bool) -> Option<Unmade> {
        match self {
            Self::Filter => Some(FILTERED),
            Self::Length => (last && call.arguments_json.trim().is_empty()).then_some(CUT_OFF),
        }
    }
}

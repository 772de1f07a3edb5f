//! What a caller can be told.

use std::collections::BTreeMap;
use std::time::Duration;

use mar_proto::types::ErrorReason;
use mar_runtime::status::{DEFAULT_RETRY, Fault, Resource, chain};
use mar_runtime::violations::Violations;
use tonic::{Code, Status};

use crate::admission::Rejection;
use crate::dispatch::Failed;
use crate::provider::{Failure, FailureClass};

/// Models, and providers, that a message names.
const MOST_TOLD: usize = 4;

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong. Not worth a retry.
    #[error("{0}")]
    Invalid(Violations),
    /// Nothing of this name. Not worth a retry.
    #[error("{kind} not found")]
    NotFound {
        /// What it is.
        kind: Resource,
        /// Its name.
        name: String,
    },
    /// The router does not hold the descriptor; repeat the call once with it.
    #[error("the descriptor is not known here")]
    DescriptorRequired,
    /// The descriptor does not verify. Not worth a retry.
    #[error("the descriptor does not verify")]
    DescriptorInvalid(#[source] Option<mar_descriptor::Error>),
    /// A tool is told otherwise than it was sealed. Not worth a retry.
    #[error("the definition of {tool} differs from the sealed one")]
    ToolChanged {
        /// The tool.
        tool: String,
    },
    /// No model fits. Not worth a retry as it is.
    #[error("no model is admitted")]
    NoModel(Vec<(String, Vec<Rejection>)>),
    /// The prompt fits the window of no sealed model, and nothing else is in the way. Not worth a retry as it is.
    #[error("the prompt fits the window of no model that may be asked")]
    Context(Vec<(String, Vec<Rejection>)>),
    /// The budget does not cover the call. Not worth a retry as it is.
    #[error("{detail}")]
    Budget {
        /// The field of the budget.
        field: &'static str,
        /// What is needed and what is there.
        detail: String,
    },
    /// No model can be called for want of a credential. An operator has to act.
    #[error("no provider of an admitted model can be called")]
    Locked(BTreeMap<String, String>),
    /// The attempts failed. Whether a retry helps is the failure's to say.
    #[error("{failure}")]
    Provider {
        /// The failure that says most about what to do.
        failure: Failure,
        /// What was tried.
        failed: Box<Failed>,
    },
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
            Error::DescriptorRequired => {
                Fault::new(Code::FailedPrecondition, ErrorReason::DescriptorRequired, text).into()
            }
            Error::DescriptorInvalid(source) => {
                if let Some(source) = source {
                    tracing::warn!(error.chain = chain(&source), "descriptor refused");
                }
                Fault::new(Code::PermissionDenied, ErrorReason::DescriptorInvalid, text).into()
            }
            Error::ToolChanged { tool } => {
                Fault::new(Code::FailedPrecondition, ErrorReason::ToolDefinitionChanged, text)
                    .metadata("tool", tool)
                    .into()
            }
            Error::NoModel(rejected) => rejections(ErrorReason::NoModelAdmitted, text, rejected),
            Error::Context(rejected) => rejections(ErrorReason::ContextExceeded, text, rejected),
            Error::Budget { field, detail } => {
                Fault::new(Code::ResourceExhausted, ErrorReason::BudgetExceeded, text).quota(field, detail).into()
            }
            Error::Locked(providers) => locked(providers),
            Error::Provider { failure, failed } => provider(&failure, &failed),
        }
    }
}

fn rejections(reason: ErrorReason, text: String, rejected: Vec<(String, Vec<Rejection>)>) -> Status {
    let fault = Fault::new(Code::FailedPrecondition, reason, text);
    let fault = rejected.into_iter().fold(fault, |fault, (model, rejections)| {
        let reasons: Vec<_> = rejections.iter().map(ToString::to_string).collect();
        fault.metadata(model, reasons.join("; "))
    });
    fault.into()
}

/// Says which key has to be set where.
fn locked(providers: BTreeMap<String, String>) -> Status {
    let problems: Vec<_> = providers.iter().map(|(provider, problem)| format!("{provider}: {problem}")).collect();
    let text = format!("no provider of an admitted model can be called: {}", problems.join("; "));
    let fault = Fault::new(Code::FailedPrecondition, ErrorReason::ProviderCredential, text);
    providers.into_iter().fold(fault, |fault, (provider, problem)| fault.metadata(provider, problem)).into()
}

/// Who was asked and what came of it, who was not, and why: all that is needed to mend it.
fn told(failed: &Failed) -> String {
    let mut text = String::new();
    let mut tell = |before: &str, what: &[String]| {
        if !what.is_empty() {
            text.push_str(before);
            text.push_str(&what[..what.len().min(MOST_TOLD)].join(", "));
            if let Some(more) = what.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
                text.push_str(&format!(" and {more} more"));
            }
        }
    };
    tell(": ", &failed.last);
    let locked: Vec<_> = failed.passed_over.iter().map(|(name, problem)| format!("{name}: {problem}")).collect();
    tell("; passed over: ", &locked);
    if failed.untried > 0 {
        // Budget, attempts or the failure itself forbid to go on; who has more of them may.
        text.push_str(&format!("; {} further admitted models were not asked", failed.untried));
    }
    text
}

fn provider(failure: &Failure, failed: &Failed) -> Status {
    let (code, reason, text) = match failure.class {
        FailureClass::Credential => {
            (Code::FailedPrecondition, ErrorReason::ProviderCredential, "the provider refuses the credential")
        }
        FailureClass::RateLimited => {
            (Code::ResourceExhausted, ErrorReason::ProviderRateLimited, "the provider is over its rate")
        }
        FailureClass::Refused => {
            (Code::FailedPrecondition, ErrorReason::ProviderRefused, "the provider refused the request")
        }
        FailureClass::Unavailable => {
            (Code::Unavailable, ErrorReason::ProviderUnavailable, "no admitted model answered")
        }
        FailureClass::Broken => (Code::Unavailable, ErrorReason::ProviderBroken, "the provider broke its answer"),
    };
    let text = format!("{text}{}", told(failed));
    let spend = &failed.spend;
    let fault = Fault::new(code, reason, text)
        .metadata("spent_input_tokens", spend.tokens.all_input().to_string())
        .metadata("spent_output_tokens", spend.tokens.all_output().to_string())
        .metadata("spent_cost_nano_usd", spend.cost_nano_usd.to_string())
        .metadata("failed_models", failed.models.join(","))
        .metadata("attempts", failed.attempts.join("\n"));
    match failure.class {
        FailureClass::RateLimited | FailureClass::Unavailable | FailureClass::Broken => {
            fault.retry_after(failure.retry_after.unwrap_or(DEFAULT_RETRY).max(Duration::from_millis(1))).into()
        }
        FailureClass::Credential | FailureClass::Refused => fault.into(),
    }
}

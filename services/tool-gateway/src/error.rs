//! Why nothing was decided.

use mar_proto::types::ErrorReason;
use mar_runtime::status::{Fault, Resource};
use mar_runtime::violations::Violations;
use tonic::{Code, Status};

/// Why nothing was decided, or why the gateway does not start. What a check of a call refuses is an answer, not one
/// of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks its rules; each violation is named. Not retryable as it is.
    #[error("the request is invalid: {0}")]
    Invalid(Violations),
    /// No tool has this name. Not retryable.
    #[error("no tool has this name")]
    NotFound(String),
    /// The gateway does not hold the descriptor: repeat the call once with it.
    #[error("the gateway does not hold the descriptor {0}")]
    DescriptorRequired(String),
    /// The descriptor's hash, signature, form or policies do not verify. Not retryable.
    #[error("the descriptor does not verify")]
    DescriptorInvalid(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A fault of the gateway itself.
    #[error("{context}")]
    Internal {
        /// What was being done.
        context: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(violations) => violations.into(),
            Error::NotFound(name) => Fault::not_found(Resource::Tool, &name).into(),
            Error::DescriptorRequired(hash) => {
                let message = "the gateway does not hold the descriptor; repeat the call with it";
                Fault::new(Code::FailedPrecondition, ErrorReason::DescriptorRequired, message)
                    .metadata("descriptor_hash", hash)
                    .into()
            }
            Error::DescriptorInvalid(source) => {
                // What is wrong with it helps whoever made it, and nobody else.
                tracing::warn!(error.chain = mar_runtime::status::chain(&*source), "descriptor refused");
                let message = "the descriptor's hash, signature, form or policies do not verify";
                Fault::new(Code::PermissionDenied, ErrorReason::DescriptorInvalid, message).into()
            }
            error @ Error::Internal { .. } => mar_runtime::status::internal(error),
        }
    }
}

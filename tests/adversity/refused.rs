//! A status with its details, as a caller reads it.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What a status says.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The code.
    pub code: Code,
    /// `ErrorInfo.reason`; empty without an `ErrorInfo` of the domain `agentruntime`.
    pub reason: String,
    /// The field paths of `BadRequest`, in order.
    pub fields: Vec<String>,
    /// `RetryInfo`.
    pub retry: Option<Duration>,
    /// The message.
    pub message: String,
    /// Type and name of `ResourceInfo`.
    pub resource: Option<(String, String)>,
}

impl Refused {
    /// Reads a status.
    pub fn of(status: &Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == "agentruntime");
        let bad = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        let resource = status.get_details_resource_info();
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason).unwrap_or_default(),
            fields: bad.into_iter().map(|violation| violation.field).collect(),
            retry: status.get_details_retry_info().and_then(|info| info.retry_delay),
            message: status.message().to_owned(),
            resource: resource.map(|resource| (resource.resource_type, resource.resource_name)),
        }
    }

    /// Reads a status that has to be there.
    pub fn by<T>(answer: Result<T, Status>) -> Self {
        match answer {
            Ok(_) => panic!("the request was answered"),
            Err(status) => Self::of(&status),
        }
    }

    /// Code and reason.
    pub fn why(&self) -> (Code, &str) {
        (self.code, &self.reason)
    }
}

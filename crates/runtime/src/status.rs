//! Every non-OK status with its `google.rpc` details, and reading them back.
//!
//! A service maps each of its errors to a [`Fault`]; the server layer fills in what a status from elsewhere lacks
//! ([`complete`]), so no status leaves without an `ErrorInfo`.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use mar_proto::types::ErrorReason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::violations::{Violation, Violations};

mod complete;
mod resource;

pub use complete::complete;
pub(crate) use complete::message_too_large;
pub use resource::Resource;

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "agentruntime";

const PREFIX: &str = "ERROR_REASON_";
/// Details travel in a header, and peers commonly accept 8 to 16 KiB of them.
const MAX_DETAILS: usize = 4 * 1024;
const MAX_MESSAGE: usize = 1024;
/// Of a description where not all of them fit whole.
const SHORT_MESSAGE: usize = 128;
/// Of the path of a field, whose names may come from the caller.
const MAX_FIELD: usize = 256;
/// Around each text.
const OVERHEAD: usize = 16;

/// The delay that a caller is told to wait when nothing better is known.
pub const DEFAULT_RETRY: Duration = Duration::from_secs(1);

/// A failure on its way to the caller.
///
/// Texts are cut so that the details fit in a header: 1 KiB for the message, 4 KiB for all details together.
#[derive(Clone, Debug)]
pub struct Fault {
    code: Code,
    reason: ErrorReason,
    message: String,
    metadata: HashMap<String, String>,
    details: ErrorDetails,
    room: usize,
}

impl Fault {
    /// A failure with its code, its reason and a text for people. The text never holds a secret, a prompt or a payload.
    pub fn new(code: Code, reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: cut(message.into(), MAX_MESSAGE),
            metadata: HashMap::new(),
            details: ErrorDetails::new(),
            room: MAX_DETAILS,
        }
    }

    /// A resource that does not exist, or that belongs to another tenant: both are answered alike.
    pub fn not_found(resource: Resource, name: &str) -> Self {
        Self::new(Code::NotFound, ErrorReason::NotFound, format!("{resource} {name} not found"))
            .resource(resource, name)
    }

    /// An RPC that this version declares and does not serve.
    pub fn not_implemented(rpc: &str) -> Self {
        Self::new(Code::Unimplemented, ErrorReason::NotImplemented, format!("{rpc} is not served by this version"))
    }

    /// Adds a key of `ErrorInfo.metadata`.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let key = key.into();
        if let Some(value) = self.take_room(key.len(), value.into()) {
            self.metadata.insert(key, value);
        }
        self
    }

    /// Names the resource that the failure is about, such as `(Resource::Run, "sessions/a/runs/b")`.
    #[must_use]
    pub fn resource(mut self, resource: Resource, name: impl Into<String>) -> Self {
        let kind = resource.type_name();
        if let Some(name) = self.take_room(kind.len(), name.into()) {
            self.details.set_resource_info(kind, name, "", "");
        }
        self
    }

    /// Tells the caller that the same request may succeed after `delay`.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self
    }

    /// Names a quota or budget that does not cover the request.
    #[must_use]
    pub fn quota(mut self, subject: impl Into<String>, description: impl Into<String>) -> Self {
        let subject = subject.into();
        if let Some(description) = self.take_room(subject.len(), description.into()) {
            self.details.add_quota_failure_violation(subject, description);
        }
        self
    }

    /// Names a condition that does not hold.
    #[must_use]
    pub fn precondition(
        mut self,
        kind: impl Into<String>,
        subject: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        let (kind, subject) = (kind.into(), subject.into());
        if let Some(description) = self.take_room(kind.len() + subject.len(), description.into()) {
            self.details.add_precondition_failure_violation(kind, subject, description);
        }
        self
    }

    /// Lists everything that is wrong with the request, as far as it fits: where it does not, texts are shortened first, and
    /// the metadata's `violations_cut` says how many are left out.
    #[must_use]
    pub fn violations(mut self, violations: &Violations) -> Self {
        let count = violations.iter().count();
        let whole = violations.iter().all(|one| one.field.len() <= MAX_FIELD)
            && violations.iter().map(size).sum::<usize>() <= self.room;
        let most = if whole { MAX_MESSAGE } else { SHORT_MESSAGE };
        let mut told = 0;
        for Violation { field, description } in violations.iter() {
            let field = middle_cut(field, MAX_FIELD);
            if let Some(description) = self.take_room(field.len(), cut(description.clone(), most)) {
                self.details.add_bad_request_violation(field, description);
                told += 1;
            }
        }
        if told < count {
            // Beside the room: the caller has to know that there are more.
            self.metadata.insert("violations_cut".to_owned(), (count - told).to_string());
        }
        self
    }

    /// The reason.
    pub fn reason(&self) -> ErrorReason {
        self.reason
    }

    /// What is left of the room for details bounds each text; nothing is added when a text would be cut to nothing.
    fn take_room(&mut self, beside: usize, text: String) -> Option<String> {
        let room = self.room.checked_sub(beside + OVERHEAD)?;
        let text = cut(text, room.min(MAX_MESSAGE));
        self.room = room - text.len();
        Some(text)
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let Fault { code, reason, message, metadata, mut details, .. } = fault;
        details.set_error_info(reason_name(reason), DOMAIN, metadata);
        Status::with_error_details(code, message, details)
    }
}

/// A fault of the runtime itself. The cause chain goes to the log, once, in the span of the request; the caller learns
/// nothing but the request id, which the server layer adds.
pub fn internal(error: impl Into<Box<dyn Error + Send + Sync>>) -> Status {
    tracing::error!(error.chain = chain(&*error.into()), "request failed on a fault of the runtime");
    Fault::new(Code::Internal, ErrorReason::Internal, "internal error").into()
}

/// An error and its sources in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Some libraries repeat the source in their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// The value of `ErrorInfo.reason`: the enum's name without its prefix.
pub fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// Reads reasons from statuses.
#[derive(Debug)]
pub enum Reason {}

impl Reason {
    /// The reason of a status of the runtime; none when it has no `ErrorInfo` of ours or a reason that is not known here.
    pub fn of(status: &Status) -> Option<ErrorReason> {
        let found = status.get_details_error_info().filter(|details| details.domain == DOMAIN)?;
        ErrorReason::from_str_name(&format!("{PREFIX}{}", found.reason))
    }
}

/// The metadata of the status's `ErrorInfo`.
pub fn metadata(status: &Status) -> HashMap<String, String> {
    status.get_details_error_info().map(|details| details.metadata).unwrap_or_default()
}

/// How long the caller is asked to wait before the next try.
pub fn retry_after(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

/// What the status says is wrong with the request.
pub fn violations(status: &Status) -> Vec<Violation> {
    let listed = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    listed.into_iter().map(|one| Violation { field: one.field, description: one.description }).collect()
}

fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut end = max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

fn size(violation: &Violation) -> usize {
    violation.field.len() + violation.description.len().min(MAX_MESSAGE) + OVERHEAD
}

/// A path of which both ends tell where it leads.
fn middle_cut(path: &str, max: usize) -> String {
    if path.len() <= max {
        return path.to_owned();
    }
    let half = max / 2 - 2;
    let mut tail = path.len() - half;
    while !path.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}…{}", cut(path.to_owned(), half), &path[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_survive_the_way() {
        let status = Status::from(
            Fault::new(Code::Unavailable, ErrorReason::StoreUnavailable, "the store is away")
                .metadata("store", "postgres")
                .retry_after(Duration::from_millis(250))
                .resource(Resource::Run, "sessions/a/runs/b"),
        );
        assert_eq!(Reason::of(&status), Some(ErrorReason::StoreUnavailable));
        assert_eq!(retry_after(&status), Some(Duration::from_millis(250)));
        assert_eq!(metadata(&status)["store"], "postgres");
        assert_eq!(status.get_details_error_info().unwrap().reason, "STORE_UNAVAILABLE");
        let resource = status.get_details_resource_info().unwrap();
        assert_eq!(resource.resource_type, "agentruntime.session.v1.Run");
        assert_eq!(resource.resource_name, "sessions/a/runs/b");
    }

    #[test]
    fn what_does_not_exist_is_named_for_people_and_for_programs() {
        let status = Status::from(Fault::not_found(Resource::RoutingPolicy, "routingPolicies/x"));
        assert_eq!(status.message(), "routing policy routingPolicies/x not found");
        let resource = status.get_details_resource_info().unwrap();
        assert_eq!(resource.resource_type, "agentruntime.router.v1.RoutingPolicy");
    }

    #[test]
    fn details_fit_in_a_header() {
        let mut violations = Violations::new();
        for at in 0..1_000 {
            violations.item("parts", at, |found| found.require(false, "text", "é".repeat(100)).is_empty());
        }
        let status = Status::from(violations);
        assert!(status.details().len() < 8 * 1024, "{}", status.details().len());
        let told = super::violations(&status).len();
        assert!(told > 10);
        assert_eq!(metadata(&status)["violations_cut"], (1_000 - told).to_string());
    }

    #[test]
    fn many_short_texts_come_before_few_long_ones() {
        let mut violations = Violations::new();
        for at in 0..20 {
            violations.item("parts", at, |found| found.require(false, "text", "x".repeat(1_000)).is_empty());
        }
        let status = Status::from(violations);
        assert_eq!(super::violations(&status).len(), 20);
        assert!(!metadata(&status).contains_key("violations_cut"));
    }

    #[test]
    fn a_long_path_hides_nothing() {
        let mut violations = Violations::new();
        violations.within(&"é".repeat(10_000), |found| found.field("kind", "must be set").is_empty());
        violations.field("name", "must be set");
        let told = super::violations(&Status::from(violations));
        assert!(told[0].field.len() <= MAX_FIELD && told[0].field.ends_with("é.kind"), "{told:?}");
        assert_eq!((told.len(), told[1].field.as_str()), (2, "name"));
    }

    #[test]
    fn internal_leaks_nothing() {
        let status = internal("the password is hunter2");
        assert!(!format!("{status:?}").contains("hunter2"));
        assert_eq!(Reason::of(&status), Some(ErrorReason::Internal));
    }

    #[test]
    fn a_foreign_domain_is_not_ours() {
        let details = ErrorDetails::with_error_info("NOT_FOUND", "other.example", HashMap::new());
        assert_eq!(Reason::of(&Status::with_error_details(Code::NotFound, "no", details)), None);
        assert_eq!(Reason::of(&Status::not_found("no")), None);
    }
}

//! Gives statuses that were made without details, mostly by tonic itself, their `ErrorInfo`.

use mar_proto::types::ErrorReason;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{DEFAULT_RETRY, DOMAIN, Fault, Reason, metadata};
use crate::violations::Violations;

/// The status with its details filled in, `request_id` included where the reason is INTERNAL. A status that has an
/// `ErrorInfo` of ours is left as it is otherwise. Texts of unknown origin do not pass.
pub fn complete(status: Status, request_id: &str) -> Status {
    if status.code() == Code::Ok {
        return status;
    }
    if let Some(found) = status.get_details_error_info().filter(|details| details.domain == DOMAIN) {
        let needs_id = Reason::of(&status) == Some(ErrorReason::Internal) && !found.metadata.contains_key("request_id");
        if !needs_id {
            return status;
        }
        return metadata(&status)
            .into_iter()
            .fold(internal(request_id), |fault, (key, value)| fault.metadata(key, value))
            .into();
    }
    fill(&status, request_id).into()
}

fn internal(request_id: &str) -> Fault {
    Fault::new(Code::Internal, ErrorReason::Internal, "internal error").metadata("request_id", request_id)
}

fn fill(status: &Status, request_id: &str) -> Fault {
    let code = status.code();
    let message = status.message();
    let same = |reason| Fault::new(code, reason, message);
    match code {
        Code::Unimplemented => {
            same(ErrorReason::NotImplemented).with_text("the method does not exist or is not served")
        }
        Code::InvalidArgument => same(ErrorReason::InvalidRequest),
        Code::Internal if message.starts_with("failed to decode Protobuf message") => malformed(message),
        Code::Internal | Code::Unknown | Code::DataLoss | Code::Ok => {
            tracing::error!(rpc.status = code.description(), error.chain = message, "status without a reason");
            internal(request_id)
        }
        Code::OutOfRange if message.contains("message length too large") => too_large(message),
        Code::OutOfRange => same(ErrorReason::CursorOutOfRange),
        Code::DeadlineExceeded => same(ErrorReason::DeadlineExceeded).with_text("the deadline has passed"),
        // What tonic's own timer answers.
        Code::Cancelled if message == "Timeout expired" => {
            Fault::new(Code::DeadlineExceeded, ErrorReason::DeadlineExceeded, "the deadline has passed")
        }
        Code::Cancelled => same(ErrorReason::Cancelled).with_text("the call was cancelled"),
        Code::Unavailable => {
            same(ErrorReason::PeerUnavailable).with_text("a service is unavailable").retry_after(DEFAULT_RETRY)
        }
        Code::Unauthenticated => same(ErrorReason::Unauthenticated),
        Code::PermissionDenied => same(ErrorReason::PolicyDenied),
        Code::NotFound => same(ErrorReason::NotFound),
        Code::AlreadyExists => same(ErrorReason::RequestIdReused),
        Code::Aborted => same(ErrorReason::EtagMismatch),
        Code::FailedPrecondition => same(ErrorReason::RunState),
        Code::ResourceExhausted => same(ErrorReason::BudgetExceeded),
    }
}

fn malformed(message: &str) -> Fault {
    let mut found = Violations::new();
    found.field("", message);
    Fault::new(Code::InvalidArgument, ErrorReason::InvalidRequest, "the message is not valid protobuf")
        .violations(&found)
}

/// A message beyond `limit`, in bytes.
pub(crate) fn message_too_large(limit: usize) -> Fault {
    let message = format!("the message is larger than {limit} bytes");
    Fault::new(Code::ResourceExhausted, ErrorReason::MessageTooLarge, message)
        .metadata("limit_bytes", limit.to_string())
}

/// tonic's text ends with the limit: `... the limit is: 4194304 bytes`.
fn too_large(message: &str) -> Fault {
    let limit = message.rsplit("limit is: ").next().and_then(|tail| tail.split(' ').next()?.parse().ok());
    match limit {
        Some(limit) => message_too_large(limit),
        None => Fault::new(Code::ResourceExhausted, ErrorReason::MessageTooLarge, "the message is too large"),
    }
}

impl Fault {
    fn with_text(mut self, text: &str) -> Self {
        self.message = text.to_owned();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Resource;

    #[test]
    fn every_bare_code_gets_a_reason_and_keeps_its_meaning() {
        for code in (1..=16).map(Code::from_i32) {
            let status = complete(Status::new(code, "text"), "r-1");
            assert!(Reason::of(&status).is_some(), "{code:?}");
            let expected = if matches!(code, Code::Unknown | Code::DataLoss) { Code::Internal } else { code };
            assert_eq!(status.code(), expected);
        }
    }

    #[test]
    fn a_fault_says_the_request_id_and_nothing_else() {
        for status in [Status::unknown("secret"), crate::status::internal("secret")] {
            let status = complete(status, "r-1");
            assert_eq!(metadata(&status)["request_id"], "r-1");
            assert!(!format!("{status:?}").contains("secret"));
        }
    }

    #[test]
    fn what_tonic_says_of_bad_messages_is_translated() {
        let large = "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes";
        let status = complete(Status::out_of_range(large), "r");
        assert_eq!(Reason::of(&status), Some(ErrorReason::MessageTooLarge));
        assert_eq!(metadata(&status)["limit_bytes"], "4");
        let status = complete(Status::internal("failed to decode Protobuf message: invalid string value"), "r");
        assert_eq!((status.code(), Reason::of(&status)), (Code::InvalidArgument, Some(ErrorReason::InvalidRequest)));
    }

    #[test]
    fn own_details_are_left_alone() {
        let own = Status::from(Fault::not_found(Resource::Run, "sessions/a/runs/b"));
        assert_eq!(complete(own.clone(), "r").details(), own.details());
        assert_eq!(complete(Status::ok(""), "r").code(), Code::Ok);
    }
}

//! The exit codes, which scripts may rely on.

use mar_proto::types::ErrorReason;
use tonic::Code;

/// What `mar` ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; a run answered.
    Done = 0,
    /// The run ended as FAILED, or does not verify.
    RunFailed = 1,
    /// The run ended as HALTED.
    RunHalted = 2,
    /// The run ended as DENIED.
    RunDenied = 3,
    /// The run ended as CANCELLED.
    RunCancelled = 4,
    /// The command line, a file it names or the configuration is wrong, or the runtime refuses the request as it is.
    Usage = 64,
    /// What was asked for does not exist.
    NotFound = 66,
    /// The endpoint, or something that it needs, is not available.
    Unavailable = 69,
    /// A fault of the program or of the runtime.
    Internal = 70,
    /// The same request may succeed later.
    TryLater = 75,
    /// The credential is missing, wrong, or does not allow this.
    NotPermitted = 77,
    /// Left with a second Ctrl-C, and the run may still be going on; or a question was not answered with yes.
    Left = 130,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What a refused RPC ends with. Where the code alone does not tell whether waiting helps, the reason does.
    pub const fn of_status(code: Code, reason: Option<ErrorReason>) -> Self {
        match reason {
            Some(ErrorReason::BudgetExceeded | ErrorReason::MessageTooLarge) => return Self::Usage,
            Some(ErrorReason::SessionBusy) => return Self::TryLater,
            _ => {}
        }
        match code {
            Code::Ok => Self::Done,
            Code::InvalidArgument
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::Unavailable => Self::Unavailable,
            Code::ResourceExhausted | Code::Aborted | Code::DeadlineExceeded | Code::Cancelled => Self::TryLater,
            Code::Unauthenticated | Code::PermissionDenied => Self::NotPermitted,
            Code::Internal | Code::Unknown | Code::DataLoss => Self::Internal,
        }
    }
}

/// The table that `--help` shows.
pub const HELP: &str = "\
Exit codes:
   0  done; a run answered, or verifies
   1  the run FAILED, or it does not verify
   2  the run was HALTED by a limit
   3  the run was DENIED      4  the run was CANCELLED
  64  wrong arguments, files or configuration, or a request that is refused as it is
  66  not found              69  the endpoint or something it needs is not available
  70  a fault of the program 75  the same request may succeed later
  77  not permitted         130  left with a second Ctrl-C, and the run may go on; or a question
                                 was not answered with yes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waiting_can_mend_is_tried_later() {
        let exhausted = |reason| Exit::of_status(Code::ResourceExhausted, reason);
        assert_eq!(exhausted(Some(ErrorReason::MessageTooLarge)), Exit::Usage);
        assert_eq!(exhausted(Some(ErrorReason::BudgetExceeded)), Exit::Usage);
        assert_eq!(exhausted(Some(ErrorReason::ProviderRateLimited)), Exit::TryLater);
        assert_eq!(exhausted(None), Exit::TryLater, "a reason that is not known here");
        let refused = |reason| Exit::of_status(Code::FailedPrecondition, Some(reason));
        assert_eq!(refused(ErrorReason::SessionBusy), Exit::TryLater);
        assert_eq!(refused(ErrorReason::SessionEnded), Exit::Usage);
        assert_eq!(refused(ErrorReason::ApprovalState), Exit::Usage);
        assert_eq!(refused(ErrorReason::RunState), Exit::Usage);
        let not_allowed = Exit::of_status(Code::PermissionDenied, Some(ErrorReason::ApprovalNotAllowed));
        assert_eq!(not_allowed, Exit::NotPermitted);
    }

    #[test]
    fn the_help_names_every_code() {
        let all = [
            Exit::Done,
            Exit::RunFailed,
            Exit::RunHalted,
            Exit::RunDenied,
            Exit::RunCancelled,
            Exit::Usage,
            Exit::NotFound,
            Exit::Unavailable,
            Exit::Internal,
            Exit::TryLater,
            Exit::NotPermitted,
            Exit::Left,
        ];
        for exit in all {
            let number = exit.code().to_string();
            assert!(HELP.split_whitespace().any(|word| word == number), "{number}");
        }
    }
}

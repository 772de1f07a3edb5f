//! Why a command did not do what was asked, for people and for scripts.

use std::collections::BTreeMap;
use std::time::Duration;

use mar_proto::types::ErrorReason;
use mar_runtime::status::{self, Reason};
use mar_runtime::violations::Violation;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::exit::Exit;
use crate::out::{Out, clean};

/// Whether the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Yes, after this time where one is known.
    Safe(Option<Duration>),
    /// It would be refused again.
    Useless,
    /// Nothing was sent.
    NothingSent,
}

/// A command's failure. Small, as it is in every result.
#[derive(Clone, Debug)]
pub struct Failure(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    exit: Exit,
    message: String,
    status: Option<StatusParts>,
    violations: Vec<Violation>,
    retry: Retry,
    hints: Vec<String>,
}

#[derive(Clone, Debug)]
struct StatusParts {
    code: Code,
    reason: String,
    metadata: BTreeMap<String, String>,
}

impl Failure {
    /// A failure that has nothing to do with a request.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            exit,
            message: message.into(),
            status: None,
            violations: Vec::new(),
            retry: Retry::NothingSent,
            hints: Vec::new(),
        }))
    }

    /// Wrong arguments, or a file that cannot be used.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// All of several mistakes in the arguments as one.
    ///
    /// # Errors
    /// There is any.
    pub fn together(mut mistakes: Vec<Self>) -> Result<(), Self> {
        match mistakes.len() {
            0 => return Ok(()),
            1 => return mistakes.pop().map_or(Ok(()), Err),
            _ => {}
        }
        let mut all = Self::usage(format!("{} things are wrong", mistakes.len()));
        for Parts { message, hints, .. } in mistakes.into_iter().map(|one| *one.0) {
            all.0.violations.push(Violation { field: String::new(), description: message });
            all.0.hints.extend(hints);
        }
        Err(all)
    }

    /// Adds a line that says what to do next.
    #[must_use]
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.0.hints.push(text.into());
        self
    }

    /// What the process ends with.
    pub fn exit(&self) -> Exit {
        self.0.exit
    }

    /// Whether nothing answered at the endpoint.
    pub fn is_unreachable(&self) -> bool {
        self.0.status.as_ref().is_some_and(|status| status.reason == "PEER_UNAVAILABLE")
    }

    /// Says everything, on standard error; as one JSON object on standard output when that was asked for.
    pub fn report(&self, out: &Out, as_json: bool) {
        if as_json {
            out.json(&self.to_json());
            return;
        }
        out.note(format!("{} {}", out.remark.bad("mar:"), self.headline()));
        for Violation { field, description } in &self.0.violations {
            let place = if field.is_empty() { String::new() } else { format!("{}: ", out.remark.bold(&clean(field))) };
            out.note(format!("  {place}{}", clean(description)));
        }
        let facts = self.0.status.iter().flat_map(|status| &status.metadata);
        for (key, value) in facts.filter(|(_, value)| !value.is_empty()) {
            out.note(format!("  {}: {}", clean(key), clean(value)));
        }
        match self.0.retry {
            Retry::NothingSent => {}
            Retry::Safe(None) => out.note("  Trying again is safe."),
            Retry::Safe(Some(after)) => {
                let after = humantime::format_duration(Duration::from_millis(after.as_millis() as u64));
                out.note(format!("  Trying again is safe, after {after}."));
            }
            Retry::Useless => out.note("  Trying again as it is will be refused again."),
        }
        for hint in &self.0.hints {
            out.note(format!("  {hint}"));
        }
    }

    fn headline(&self) -> String {
        let message = clean(&self.0.message);
        match &self.0.status {
            Some(status) if !status.reason.is_empty() => format!("{message} ({})", clean(&status.reason)),
            _ => message,
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let violations: Vec<_> =
            self.0.violations.iter().map(|one| json!({"field": one.field, "description": one.description})).collect();
        let (safe, after) = match self.0.retry {
            Retry::Safe(after) => (true, after.map(|after| after.as_millis() as u64)),
            Retry::NothingSent => (true, None),
            Retry::Useless => (false, None),
        };
        let status = self.0.status.as_ref();
        json!({
            "error": {
                "code": status.map(|status| format!("{:?}", status.code)),
                "reason": status.map(|status| &status.reason),
                "message": self.0.message,
                "violations": violations,
                "metadata": status.map(|status| &status.metadata),
                "retry": { "safe": safe, "after_ms": after },
                "hints": self.0.hints,
            },
            "exit_code": self.0.exit.code(),
        })
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let reason = status.get_details_error_info().map(|found| found.reason).unwrap_or_default();
        let mut metadata: BTreeMap<_, _> = status::metadata(&status).into_iter().collect();
        if let Some(resource) = status.get_details_resource_info().filter(|found| !found.resource_name.is_empty()) {
            metadata.insert("resource".into(), resource.resource_name);
        }
        Self(Box::new(Parts {
            exit: Exit::of_status(status.code(), Reason::of(&status)),
            message: status.message().to_owned(),
            violations: status::violations(&status),
            retry: retry(&status),
            hints: Vec::new(),
            status: Some(StatusParts { code: status.code(), reason, metadata }),
        }))
    }
}

impl From<mar_runtime::Failure> for Failure {
    fn from(failure: mar_runtime::Failure) -> Self {
        let exit = match failure.code() {
            64 => Exit::Usage,
            69 => Exit::Unavailable,
            _ => Exit::Internal,
        };
        let lines = failure.lines();
        match lines.as_slice() {
            [line] => Self::new(exit, line),
            _ => {
                let violation = |line: String| match line.split_once(": ") {
                    Some((field, text)) => Violation { field: field.into(), description: text.into() },
                    None => Violation { field: String::new(), description: line },
                };
                let mut failure = Self::new(exit, "the configuration is wrong");
                failure.0.violations = lines.into_iter().map(violation).collect();
                failure
            }
        }
    }
}

impl From<mar_runtime::config::Error> for Failure {
    fn from(error: mar_runtime::config::Error) -> Self {
        mar_runtime::Failure::from(error).into()
    }
}

/// As the API's reasons say. Mutations carry a request id, so repeating one never does it twice.
fn retry(status: &Status) -> Retry {
    if let Some(after) = status::retry_after(status) {
        return Retry::Safe(Some(after).filter(|after| !after.is_zero()));
    }
    match (Reason::of(status), status.code()) {
        (Some(ErrorReason::BudgetExceeded | ErrorReason::MessageTooLarge), _) => Retry::Useless,
        (
            Some(ErrorReason::SessionBusy | ErrorReason::EtagMismatch | ErrorReason::Cancelled | ErrorReason::Draining),
            _,
        )
        | (_, Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::ResourceExhausted) => {
            Retry::Safe(None)
        }
        _ => Retry::Useless,
    }
}

#[cfg(test)]
mod tests {
    use mar_runtime::status::Fault;
    use mar_runtime::violations::Violations;

    use super::*;

    #[test]
    fn a_status_keeps_all_that_it_says() {
        let mut violations = Violations::new();
        violations.field("task.halting.max_steps", "must be 1 to 1000").field("task.input", "must not be empty");
        let failure = Failure::from(Status::from(violations));
        assert_eq!(failure.exit(), Exit::Usage);
        let json = failure.to_json();
        assert_eq!(json["error"]["reason"], "INVALID_REQUEST");
        assert_eq!(json["error"]["violations"].as_array().unwrap().len(), 2);
        assert_eq!(json["error"]["retry"]["safe"], false);
        assert_eq!(json["exit_code"], 64);
    }

    #[test]
    fn retries_are_as_the_reasons_say() {
        let of = |code, reason| retry(&Status::from(Fault::new(code, reason, "x")));
        assert_eq!(of(Code::FailedPrecondition, ErrorReason::SessionBusy), Retry::Safe(None));
        assert_eq!(of(Code::FailedPrecondition, ErrorReason::SessionEnded), Retry::Useless);
        let exhausted = |reason| of(Code::ResourceExhausted, reason);
        assert_eq!(exhausted(ErrorReason::MessageTooLarge), Retry::Useless);
        assert_eq!(exhausted(ErrorReason::BudgetExceeded), Retry::Useless);
        assert_eq!(exhausted(ErrorReason::ProviderRateLimited), Retry::Safe(None));
        let busy: Status = Fault::new(Code::Unavailable, ErrorReason::StoreUnavailable, "x")
            .retry_after(Duration::from_millis(250))
            .into();
        assert_eq!(retry(&busy), Retry::Safe(Some(Duration::from_millis(250))));
    }

    #[test]
    fn the_exit_code_and_the_advice_agree() {
        for reason in [
            ErrorReason::MessageTooLarge,
            ErrorReason::BudgetExceeded,
            ErrorReason::ProviderRateLimited,
            ErrorReason::SessionBusy,
        ] {
            let code =
                if reason == ErrorReason::SessionBusy { Code::FailedPrecondition } else { Code::ResourceExhausted };
            let json = Failure::from(Status::from(Fault::new(code, reason, "x"))).to_json();
            let safe = json["error"]["retry"]["safe"].as_bool().unwrap();
            assert_eq!(json["exit_code"], if safe { 75 } else { 64 }, "{reason:?}");
        }
    }

    #[test]
    fn mistakes_are_told_together_with_their_hints() {
        assert!(Failure::together(Vec::new()).is_ok());
        let one = Failure::together(vec![Failure::usage("a").hint("do x")]).unwrap_err().to_json();
        assert_eq!((&one["error"]["message"], &one["error"]["hints"]), (&json!("a"), &json!(["do x"])));
        let both =
            Failure::together(vec![Failure::usage("a").hint("do x"), Failure::usage("b")]).unwrap_err().to_json();
        let told: Vec<_> =
            both["error"]["violations"].as_array().unwrap().iter().map(|one| &one["description"]).collect();
        assert_eq!((told, &both["error"]["hints"]), (vec![&json!("a"), &json!("b")], &json!(["do x"])));
        assert_eq!(both["exit_code"], 64);
    }

    #[test]
    fn a_failure_of_the_host_lists_its_lines() {
        let failure = Failure::from(mar_runtime::Failure::Config(vec!["a.b: is wrong".into(), "c: too".into()]));
        assert_eq!(failure.exit(), Exit::Usage);
        assert_eq!(failure.0.violations[0].field, "a.b");
    }
}
